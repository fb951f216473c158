"""Kernels to test with: just enough of an ELF file, a banner, a PVH note, a configuration and modules to be taken for one."""

from __future__ import annotations

import gzip
from pathlib import Path

from banger.image.kernel_config import BUILT_IN, DRIVERS

from .bzimages import elf

VERSION = "6.12.1-made"
_PVH_NOTE = b"\x04\0\0\0\x08\0\0\0\x12\0\0\0Xen\0" + bytes(8)


def vmlinux(version: str = VERSION, *, pvh: bool = True, config: str = "") -> bytes:
    """An ELF kernel; ``config``: carried in itself."""
    inside = b"IKCFG_ST" + gzip.compress(config.encode()) + b"IKCFG_ED" if config else b""
    return elf(20_000) + f"Linux version {version} (someone@somewhere) #1\n".encode() + (_PVH_NOTE if pvh else b"") + inside + bytes(100)


def config(drivers: str = "m", **changes: str) -> str:
    """A configuration that is good enough, with its drivers as ``m`` or ``y``; a change of "" removes the option."""
    options = {"ACPI": "y"} | dict.fromkeys(BUILT_IN, "y") | dict.fromkeys(DRIVERS.values(), drivers) | changes
    return "# Linux/x86 6.12.1 Kernel Configuration\n" + "".join(f"CONFIG_{name}={value}\n" for name, value in options.items() if value)


def modules(tree: Path, names: tuple[str, ...] = tuple(DRIVERS)) -> Path:
    """A tree of modules with its list, as depmod leaves it."""
    (tree / "kernel").mkdir(parents=True)
    for name in names:
        (tree / "kernel" / f"{name}.ko").write_bytes(name.encode())
    (tree / "modules.dep").write_text("".join(f"kernel/{name}.ko:\n" for name in names))
    (tree / "modules.builtin").touch()
    return tree


def kernel_directory(directory: Path, *, drivers: str = "m") -> Path:
    """``vmlinux``, ``config`` and ``modules/`` as a build leaves them for us."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "vmlinux").write_bytes(vmlinux())
    (directory / "config").write_text(config(drivers))
    if drivers == "m":
        modules(directory / "modules")
    return directory
