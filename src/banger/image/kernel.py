"""Kernels from the distribution: downloaded and verified by apt in a private root, so that the system's own package state is neither read nor changed."""

from __future__ import annotations

import asyncio
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..host.files import remove_tree
from ..host.run import Completed, find_tool, run
from ..model.errors import BadRequest, CommandFailed
from ..model.progress import Report
from ..storage.ext4 import explain_full
from .apt_sources import check_keyring, host_options, source_lines
from .bzimage import extract_vmlinux
from .catalog import Distribution, KernelRecipe
from .complaints import Complaints
from .recipe import check_space

STAGE: Final = "pull_kernel"
VMLINUX: Final = "vmlinux"
_DEPENDS: Final = re.compile(r"^Depends: (linux-image-(?:unsigned-)?([0-9][A-Za-z0-9.+~-]*))", re.MULTILINE)
_NETWORK_DEADLINE: Final = 1800.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """The kernel that a catalog entry means today."""

    package: str
    version: str
    """``uname -r``."""


async def fetch(recipe: KernelRecipe, distribution: Distribution, staging: Path, report: Report) -> Release:
    """Fill ``staging`` with ``vmlinux``, ``modules/`` (the content of /lib/modules/VERSION) and ``config``.

    ``staging`` exists and is ours. Raises MissingTool, NoSpace, CommandFailed; the caller removes ``staging`` then.
    """
    for tool in ("apt-get", "apt-cache", "dpkg-deb", "depmod", "lz4"):
        find_tool(tool)
    check_keyring(distribution)
    what = f"fetching kernel {recipe.name}"
    check_space(recipe.scratch_bytes, what, staging.parent)
    with explain_full(what, staging.parent):
        report(STAGE, f"looking for the newest kernel of {distribution.origin} {recipe.suite}")
        apt = await _private_apt(distribution, recipe.suite, _Apt(staging / "apt", what))
        release = await _newest(recipe, apt)
        report(STAGE, f"downloading {release.package}")
        await apt.run("apt-get", "download", release.package)
        report(STAGE, f"unpacking {release.package}")
        await _unpack(_only(apt.root, "*.deb"), release, staging)
    return release


@dataclass(frozen=True, slots=True)
class _Apt:
    """apt with state, cache and configuration of its own below ``root``."""

    root: Path

    what: str

    async def run(self, *words: str) -> Completed:
        complaints = Complaints()
        with complaints.explain(self.what, self.root.parent.parent):
            return await run(
                ("setpriv", "--pdeathsig", "KILL", *words),
                deadline=_NETWORK_DEADLINE,
                env={"APT_CONFIG": str(self.root / "apt.conf")},
                cwd=self.root,
                on_line=complaints.feed,
            )


async def _private_apt(distribution: Distribution, suite: str, apt: _Apt) -> _Apt:
    """The same apt, knowing today's packages of the suite, verified against the distribution's keyring."""
    root = apt.root
    for directory in ("state/lists/partial", "cache/archives/partial", "etc", "log"):
        (root / directory).mkdir(parents=True)
    (root / "state" / "status").touch()
    (root / "etc" / "sources.list").write_text("\n".join(await source_lines(distribution, suite)) + "\n")
    (root / "apt.conf").write_text("\n".join([*_configuration(root), *await host_options()]) + "\n")
    await apt.run("apt-get", "update", "--error-on=any")
    return apt


def _configuration(root: Path) -> list[str]:
    """apt.conf(5). This file is read first and sends apt past the system's own: its hooks, preferences, sources and proxies' scripts."""
    return [
        'Dir::Etc::main "/dev/null";',
        'Dir::Etc::parts "/dev/null";',
        'Dir::Etc::sourceparts "/dev/null";',
        'Dir::Etc::preferences "/dev/null";',
        'Dir::Etc::preferencesparts "/dev/null";',
        f'Dir::Etc::sourcelist "{root}/etc/sources.list";',
        f'Dir::State "{root}/state";',
        f'Dir::State::status "{root}/state/status";',
        f'Dir::Cache "{root}/cache";',
        f'Dir::Log "{root}/log";',
        # Nothing here is reachable for the user _apt, whom apt would become for downloads when it is run by root.
        'APT::Sandbox::User "root";',
        'APT::Architecture "amd64";',
        'APT::Architectures "amd64";',
        'Acquire::Languages "none";',
        'Acquire::Retries "3";',
    ]


async def _newest(recipe: KernelRecipe, apt: _Apt) -> Release:
    shown = await apt.run("apt-cache", "show", "--no-all-versions", recipe.package)
    match = _DEPENDS.search(shown.stdout.decode(errors="replace"))
    if match is None:
        raise CommandFailed(f"the package {recipe.package} of {recipe.suite} names no kernel")
    return Release(package=match[1], version=match[2])


async def _unpack(package: Path, release: Release, staging: Path) -> None:
    tree = staging / "tree"
    await run(["dpkg-deb", "-x", package, tree], deadline=300)
    await asyncio.to_thread(remove_tree, staging / "apt")
    boot, modules = tree / "boot", tree / "lib" / "modules" / release.version
    if not modules.is_dir():
        raise BadRequest(f"{release.package} has no modules of {release.version}")
    await extract_vmlinux(boot / f"vmlinuz-{release.version}", staging / VMLINUX)
    # The package leaves modules.dep to its postinst.
    await run(["depmod", "-b", tree, release.version], deadline=300)
    modules.rename(staging / "modules")
    shutil.copyfile(boot / f"config-{release.version}", staging / "config")
    await asyncio.to_thread(remove_tree, tree)


def _only(directory: Path, pattern: str) -> Path:
    found = list(directory.glob(pattern))
    if len(found) != 1:
        raise CommandFailed(f"apt-get download left {len(found)} packages in {directory}")
    return found[0]
