"""A kernel from files of the caller's: an ELF vmlinux or a bzImage, its modules, its configuration. Only regular files are taken; links are not followed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..guest.modules import REQUIRED
from ..host.run import find_tool, run
from ..model.errors import BadRequest
from ..model.sizes import GIB, MIB, format_size
from ..storage.ext4 import explain_full
from .bzimage import check_elf, extract_vmlinux
from .kernel import VMLINUX
from .kernel_config import DRIVERS, Declared, declare, embedded_config, parse

MODULES: Final = "modules"
CONFIG: Final = "config"
MAX_VMLINUX_BYTES: Final = GIB
MAX_CONFIG_BYTES: Final = 4 * MIB
MAX_MODULES_BYTES: Final = 4 * GIB
MAX_MODULES: Final = 50_000
_DEPMOD_DEADLINE: Final = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelFiles:
    """Where a kernel lies. ``modules`` is the content of /lib/modules/VERSION; None = it has none, or nothing is known."""

    vmlinux: Path
    modules: Path | None = None
    config: Path | None = None


def find(directory: Path) -> KernelFiles:
    """The kernel in a directory: ``vmlinux`` or one ``vmlinuz*``/``bzImage``; ``modules/`` or one ``lib/modules/VERSION/``; ``config*`` or ``.config``.

    Parts of a distribution's package lie below ``boot/``. Raises BadRequest when there is no kernel, or more than one.
    """
    if not directory.is_dir():
        raise BadRequest(f"{directory} is not a directory", hint="--from wants the directory that the kernel and its modules lie in")
    places = (directory, directory / "boot")
    kernel = _one(directory, [path for place in places for pattern in ("vmlinux*", "vmlinuz*", "bzImage") for path in place.glob(pattern)], "kernel")
    if kernel is None:
        raise BadRequest(f"there is no kernel in {directory}", hint="it is called vmlinux, vmlinuz-VERSION or bzImage, there or in boot/")
    trees = [directory / MODULES, *(directory / "lib" / "modules").glob("*")]
    modules = _one(directory, [tree for tree in trees if tree.is_dir()], "tree of modules")
    config = _one(directory, [path for place in places for pattern in ("config*", ".config") for path in place.glob(pattern)], "configuration")
    return KernelFiles(vmlinux=kernel, modules=modules, config=config)


async def gather(files: KernelFiles, staging: Path) -> Declared:
    """Fill ``staging`` with ``vmlinux``, ``modules/`` and ``config``, and say what the kernel declares.

    ``staging`` exists and is ours. Raises BadRequest (not a kernel, not a usable one: every missing option is named), NoSpace, MissingTool.
    """
    with explain_full("copying the kernel", staging.parent):
        await _take_kernel(files.vmlinux, staging / VMLINUX)
        config = await asyncio.to_thread(_take_config, files.config, staging / VMLINUX)
        if files.modules is not None:
            await asyncio.to_thread(_copy_tree, files.modules, staging / MODULES)
        if config:
            (staging / CONFIG).write_text(config)
        return await complete(staging)


async def complete(staging: Path) -> Declared:
    """What the kernel in ``staging`` declares; the lists of its modules are made where they are missing. Raises BadRequest for an unusable one."""
    modules = staging / MODULES
    check_elf(staging / VMLINUX)
    config = (staging / CONFIG).read_text(errors="replace") if (staging / CONFIG).exists() else ""
    declared = await asyncio.to_thread(declare, staging / VMLINUX, modules, config)
    modules.mkdir(exist_ok=True)
    await _list_modules(staging, declared.version, parse(config or embedded_config(staging / VMLINUX)))
    return declared


async def _list_modules(staging: Path, version: str, options: Mapping[str, str]) -> None:
    """Write ``modules.dep`` (depmod(8)) and ``modules.builtin`` unless the kernel's build has done so."""
    modules = staging / MODULES
    builtin = modules / "modules.builtin"
    if not builtin.exists():
        known = [driver for driver in REQUIRED if options.get(DRIVERS[driver]) == "y"]
        builtin.write_text("".join(f"kernel/{driver}.ko\n" for driver in known))
    if (modules / "modules.dep").exists():
        return
    find_tool("depmod")
    # depmod wants the tree below lib/modules/VERSION of a root.
    root = staging / "root" / "lib" / "modules"
    root.mkdir(parents=True)
    modules.rename(root / version)
    (root / version / "modules.order").touch()
    await run(["depmod", "-b", staging / "root", version], deadline=_DEPMOD_DEADLINE)
    (root / version).rename(modules)
    shutil.rmtree(staging / "root")


async def _take_kernel(source: Path, vmlinux: Path) -> None:
    with _opened(source, MAX_VMLINUX_BYTES) as fd:
        elf = os.pread(fd, 4, 0) == b"\x7fELF"
        if elf:
            await asyncio.to_thread(_copy, fd, vmlinux)
    if not elf:
        await extract_vmlinux(source, vmlinux)


def _take_config(source: Path | None, vmlinux: Path) -> str:
    if source is None:
        return embedded_config(vmlinux)
    with _opened(source, MAX_CONFIG_BYTES) as fd:
        text = os.pread(fd, MAX_CONFIG_BYTES, 0).decode(errors="replace")
    if not parse(text):
        raise BadRequest(f"{source} is not a kernel's configuration", hint="it is the .config of the kernel's build, or /boot/config-VERSION")
    return text


def _copy_tree(source: Path, destination: Path) -> None:
    """Copy directories and regular files; links (``build``, ``source``) are left out."""
    count = size = 0
    destination.mkdir()
    for place, directories, files in os.walk(source):
        to = destination / Path(place).relative_to(source)
        for name in directories:
            if not Path(place, name).is_symlink():
                (to / name).mkdir(mode=0o755)
        for name in files:
            path = Path(place, name)
            info = path.lstat()
            if not stat.S_ISREG(info.st_mode):
                continue
            count, size = count + 1, size + info.st_size
            if count > MAX_MODULES or size > MAX_MODULES_BYTES:
                raise BadRequest(
                    f"{source} holds more than {MAX_MODULES} files or {format_size(MAX_MODULES_BYTES)}", hint="is it the content of /lib/modules/VERSION?"
                )
            with _opened(path, MAX_MODULES_BYTES) as fd:
                _copy(fd, to / name)


@contextlib.contextmanager
def _opened(path: Path, limit: int) -> Iterator[int]:
    """A regular file of at most ``limit`` bytes, as a descriptor. Raises BadRequest for everything else."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise BadRequest(f"{path} cannot be read: {error.strerror}") from error
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            raise BadRequest(f"{path} is not a file")
        if info.st_size > limit:
            raise BadRequest(f"{path} is larger than {format_size(limit)}")
        yield fd
    finally:
        os.close(fd)


def _copy(fd: int, destination: Path) -> None:
    with open(fd, "rb", closefd=False) as source, destination.open("xb") as out:
        shutil.copyfileobj(source, out)
    destination.chmod(0o644)


def _one(directory: Path, found: list[Path], what: str) -> Path | None:
    """The only one that was found, if any. ``vmlinux`` beside other forms of it is taken."""
    plain = [path for path in found if path.name == VMLINUX]
    if len(plain or found) > 1:
        names = ", ".join(str(path.relative_to(directory)) for path in sorted(found))
        raise BadRequest(
            f"{directory} holds more than one {what}: {names}", hint="name the one: banger kernel import NAME --vmlinux FILE --modules DIR --config FILE"
        )
    return next(iter(plain or found), None)
