"""Building a root file system from a recipe: mmdebstrap, the recipe's changes, mke2fs. The same steps and the same result as root and as an ordinary user."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..host.files import no_space
from ..host.run import find_tool, run
from ..model.progress import Report
from ..storage.ext4 import BLOCK_BYTES, FEATURES, INODE_BYTES, PREZEROED, explain_full, make_filesystem
from . import finish_tree, namespace
from .apt_sources import check_keyring, host_options, source_lines
from .aptprogress import AptProgress
from .catalog import Distribution, Recipe
from .complaints import Complaints

STAGE: Final = "build_image"
ROOTFS: Final = "rootfs.ext4"
_TREE_SHARE: Final = 0.88
"""Part of the time that mmdebstrap takes."""
_BUILD_DEADLINE: Final = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """A finished tree, measured."""

    blocks: int
    inodes: int
    packages: dict[str, str]


async def build(recipe: Recipe, distribution: Distribution, staging: Path, report: Report) -> Tree:
    """Build ``staging/rootfs.ext4`` and remove everything else that the build made there.

    ``staging`` exists and is ours. Raises MissingTool, NoSpace, CommandFailed; the caller removes ``staging`` then (``namespace.remove``).
    """
    await check_host(distribution)
    check_space(recipe.scratch_bytes, f"building image {recipe.name}", staging.parent)
    await _bootstrap(recipe, distribution, staging, report)
    with explain_full(f"building image {recipe.name}", staging.parent):
        report(STAGE, "writing the file system", progress=_TREE_SHARE)
        tree = await _finish(recipe, staging / "tree")
        await _pack(staging, tree)
    report(STAGE, "cleaning up", progress=0.97)
    await namespace.remove(staging / "tree")
    await namespace.remove(staging / "tmp")
    return tree


async def check_host(distribution: Distribution) -> None:
    """Raises MissingTool or BangerError, with a remedy, when this host cannot build images."""
    for tool in ("mmdebstrap", "apt-get", "dpkg", "mke2fs"):
        find_tool(tool)
    check_keyring(distribution)
    await namespace.check()


def check_space(needed: int, what: str, where: Path) -> None:
    """Raises NoSpace when there is surely too little, before time is spent."""
    if shutil.disk_usage(where).free < needed:
        raise no_space(f"{what} (it needs {needed // (1024 * 1024)} MiB)", where)


async def _bootstrap(recipe: Recipe, distribution: Distribution, staging: Path, report: Report) -> None:
    progress, complaints = AptProgress(), Complaints()

    def on_line(line: str) -> None:
        complaints.feed(line)
        if progress.feed(line):
            report(STAGE, progress.message, progress=progress.fraction * _TREE_SHARE)

    report(STAGE, progress.message, progress=0.0)
    (staging / "tmp").mkdir()
    # In mode "unshare" mmdebstrap makes no user namespace when it is root already, as it is here; it isolates its mounts all the same.
    words = ["mmdebstrap", "--mode=unshare", "--variant=minbase", "--format=directory", "--verbose", f"--include={','.join(recipe.packages)}"]
    words += [f"--aptopt={option}" for option in ('Acquire::Retries "3";', *await host_options())]
    words += [recipe.suite, str(staging / "tree"), *await source_lines(distribution, recipe.suite)]
    with complaints.explain(f"building image {recipe.name}", staging.parent):
        await run(namespace.inside(words), deadline=_BUILD_DEADLINE, env={"TMPDIR": str(staging / "tmp")}, on_line=on_line)


async def _finish(recipe: Recipe, tree: Path) -> Tree:
    plan = {"remove": list(recipe.remove), "files": dict(recipe.files), "links": dict(recipe.links)}
    words = namespace.inside([sys.executable, "-I", finish_tree.__file__, tree])
    answer = json.loads((await run(words, deadline=300, stdin=json.dumps(plan).encode())).stdout)
    return Tree(blocks=answer["blocks"], inodes=answer["inodes"], packages=answer["packages"])


async def _pack(staging: Path, tree: Tree) -> None:
    file = staging / ROOTFS
    with file.open("xb") as stream:
        stream.truncate(filesystem_bytes(tree))
    file.chmod(0o644)
    # The base is only ever mounted read-only: no journal. mke2fs must see the owners as the namespace does.
    options = ("-O", FEATURES, "-N", str(inode_count(tree)), "-L", "banger-base", "-E", PREZEROED, "-d", staging / "tree")
    await make_filesystem(file, *options, deadline=600, wrap=namespace.inside)


def inode_count(tree: Tree) -> int:
    """Inodes of a file system that holds the tree: ten reserved ones, and a few to spare."""
    return tree.inodes + tree.inodes // 50 + 64


def filesystem_bytes(tree: Tree) -> int:
    """Size of a file system that holds the tree and has next to no room: nobody writes into it. Whole MiB."""
    tables = inode_count(tree) * INODE_BYTES
    content = tree.blocks * BLOCK_BYTES
    mib = 1024 * 1024
    return -(-(content + tables + content // 50 + 8 * mib) // mib) * mib
