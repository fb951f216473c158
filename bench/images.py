"""Measures of images: container images against skopeo, umoci and mke2fs, recipes against mmdebstrap and mke2fs, all of them in a directory on the same disk."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from banger.host.run import SEARCH_PATH
from banger.image import namespace
from banger.image.apt_sources import host_options, source_lines
from banger.image.catalog import embedded
from banger.storage.ext4 import BLOCK_BYTES, FEATURES, INODE_BYTES, PREZEROED
from bench.samples import Finding, interleaved, median, seconds
from tests.e2e.instance import IMAGE, Instance
from tests.ociimages import make_image, write_layout
from tests.registry import running_registry

MB: Final = 1_000_000
_ROUNDS: Final = 3
_ENVIRONMENT: Final = {"PATH": SEARCH_PATH, "HOME": "/nonexistent", "MKE2FS_CONFIG": os.devnull}


def images(instance: Instance) -> list[Finding]:
    """A pull of an image of 300 MB, and a build of the default image, each against the field's own tools."""
    with tempfile.TemporaryDirectory(prefix="banger-images-", dir="/var/tmp") as name:
        work = Path(name)
        recipe = recipe_build(instance, work)
        return [*container_pull(instance, work), *recipe]


def recipe_build(instance: Instance, work: Path) -> list[Finding]:
    """Leaves the last tree in ``work/tree``."""
    recipe = embedded().recipes[IMAGE]
    file = work / "bench-recipe.toml"
    file.write_text(f"suite = {recipe.suite!r}\npackages = {list(recipe.packages)!r}\n")

    def banger() -> float:
        return seconds(instance.argv("image", "build", str(file)), instance.environment)

    samples = interleaved(2, banger=banger, bare=lambda: bare_build(work))
    instance.ok("image", "delete", "bench-recipe")
    ratio = median(samples["banger"]) / median(samples["bare"])
    return [Finding(what="recipe build / bare mmdebstrap + mke2fs", value=ratio, unit="", limit=1.1, samples=samples)]


def bare_build(work: Path) -> float:
    recipe = embedded().recipes[IMAGE]
    distribution = embedded().distributions[recipe.distribution]
    _clear(work / "tree")
    (work / "tmp").mkdir(exist_ok=True)
    options = [f"--aptopt={option}" for option in asyncio.run(host_options())]
    words = ["mmdebstrap", "--mode=unshare", "--variant=minbase", "--format=directory", f"--include={','.join(recipe.packages)}", *options]
    words += [recipe.suite, str(work / "tree"), *asyncio.run(source_lines(distribution, recipe.suite))]
    return _run(words, TMPDIR=str(work / "tmp")) + _make_ext4(work / "tree", work / "tree.ext4")


def container_pull(instance: Instance, work: Path) -> list[Finding]:
    tar = subprocess.run(namespace.inside(["tar", "-C", work / "tree", "--numeric-owner", "-cf", "-", "."]), check=True, capture_output=True).stdout
    write_layout(work / "layout", {"it": make_image([tar])})
    size = len(tar)
    del tar
    peaks: list[float] = []
    with running_registry(work / "registry") as registry:
        reference = registry.push(f"{work / 'layout'}:it", "bench/debian:1")

        def banger() -> float:
            instance.run("image", "delete", "bench-pull")
            instance.ok("image", "cache", "prune")
            with _peak_memory(instance, peaks):
                return seconds(instance.argv("image", "pull", reference, "--name", "bench-pull"), instance.environment)

        samples = interleaved(_ROUNDS, banger=banger, bare=lambda: bare_pull(work / "bare", reference))
        again = interleaved(_ROUNDS, again=lambda: seconds(instance.argv("image", "pull", reference), instance.environment))
        instance.ok("image", "delete", "bench-pull")
    ratio = median(samples["banger"]) / median(samples["bare"])
    what = f"pull of a container image of {size / MB:.0f} MB"
    return [
        Finding(what=f"{what} / skopeo copy + umoci unpack + mke2fs -d", value=ratio, unit="", limit=1.0, samples=samples),
        Finding(what=f"peak memory of the daemon in a {what}", value=max(peaks), unit="MB", limit=200, samples={"peak": peaks}),
        Finding(what="second pull of an unchanged tag", value=median(again["again"]), unit="s", limit=1.0, samples=again),
    ]


def bare_pull(work: Path, reference: str) -> float:
    _clear(work)
    work.mkdir()
    copied = _run(["skopeo", "copy", "--insecure-policy", "--src-tls-verify=false", reference, f"oci:{work / 'image'}:it"])
    unpacked = _run(["umoci", "unpack", "--image", f"{work / 'image'}:it", str(work / "bundle")])
    return copied + unpacked + _make_ext4(work / "bundle" / "rootfs", work / "rootfs.ext4")


def _make_ext4(tree: Path, file: Path) -> float:
    file.unlink(missing_ok=True)
    with file.open("xb") as stream:
        stream.truncate(1 << 30)
    options = ("-O", FEATURES, "-b", str(BLOCK_BYTES), "-I", str(INODE_BYTES), "-E", PREZEROED, "-m", "0", "-d", str(tree), str(file))
    return _run(["mke2fs", "-q", "-F", *options])


def _run(words: Sequence[str], **environment: str) -> float:
    """Seconds of a program, run as root of the namespace that images are built in."""
    return seconds([str(word) for word in namespace.inside(list(words))], _ENVIRONMENT | environment)


def _clear(path: Path) -> None:
    if os.geteuid() == 0:
        shutil.rmtree(path, ignore_errors=True)
    else:
        _run(["rm", "-rf", str(path)])


@contextmanager
def _peak_memory(instance: Instance, peaks: list[float]) -> Iterator[None]:
    """Append the largest resident memory of the daemon inside the block, in MB (proc(5): 5 in clear_refs resets VmHWM)."""
    process = Path(f"/proc/{instance.daemon_pid()}")
    (process / "clear_refs").write_text("5")
    yield
    match = re.search(r"^VmHWM:\s+([0-9]+) kB", (process / "status").read_text(), re.MULTILINE)
    assert match
    peaks.append(int(match[1]) * 1024 / 1e6)
