"""The initramfs: the guest program, the kernel modules it loads, and nothing of the image. One per kernel and program, shared by all VMs."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ..host.files import STAGING_SUFFIX, explain_no_space, write_atomically
from . import newc
from .modules import Module, resolve

FORMAT: Final = b"1"
"""Changes whenever the same input is to give another archive."""
MODULE_DIRECTORY: Final = "lib/modules"
_KEPT: Final = 4
_KEPT_SECONDS: Final = 3600.0
"""An entry used less than this ago is never removed: a launch may be about to open it."""


def build_initramfs(kernel_dir: Path, program: Path, cache: Path) -> Path:
    """Path of the initramfs for this kernel and guest program, built unless ``cache`` holds it; an uncompressed newc archive.

    ``kernel_dir`` holds ``modules/``, the content of /lib/modules/VERSION. Any number of callers may build at once: all make the same bytes,
    and the name appears only with the whole content. Raises BadRequest for a kernel without the drivers that a guest needs, NoSpace, OSError.
    """
    modules = resolve(kernel_dir / "modules")
    init = program.read_bytes()
    path = cache / f"{_key(init, modules)}.cpio"
    try:
        os.utime(path)
    except FileNotFoundError:
        with explain_no_space("building the initramfs", cache):
            cache.mkdir(parents=True, exist_ok=True)
            write_atomically(path, newc.archive(_entries(init, modules)), mode=0o644)
        _prune(cache)
    return path


def _key(init: bytes, modules: tuple[Module, ...]) -> str:
    """Hash of everything that goes in; the modules as they lie there, so that a hit decompresses nothing."""
    digest = hashlib.sha256()
    for part in (FORMAT, init, *(part for module in modules for part in (module.name.encode(), module.file.read_bytes()))):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()[:32]


def _entries(init: bytes, modules: tuple[Module, ...]) -> Iterator[newc.Entry]:
    for name in ("dev", "lib", MODULE_DIRECTORY, "newroot", "proc", "run", "sys"):
        yield newc.directory(name)
    # The kernel opens this for init before devtmpfs is mounted (init/main.c, console_on_rootfs).
    yield newc.character_device("dev/console", 5, 1)
    yield newc.regular("init", init, 0o755)
    files = [f"{MODULE_DIRECTORY}/{module.name}.ko" for module in modules]
    yield newc.regular("modules", "".join(f"/{file}\n" for file in files).encode())
    for file, module in zip(files, modules, strict=True):
        yield newc.regular(file, module.read())


def _prune(cache: Path) -> None:
    """Remove all but the newest few archives, and what interrupted builds left."""
    now = time.time()
    old = sorted((now - _modified(path), path) for path in cache.glob("*.cpio"))[_KEPT:]
    old += [(now - _modified(path), path) for path in cache.glob(f"*.cpio.*{STAGING_SUFFIX}")]
    for age, path in old:
        if age > _KEPT_SECONDS:
            path.unlink(missing_ok=True)


def _modified(path: Path) -> float:
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_mtime
    return 0.0
