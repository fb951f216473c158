"""What a kernel says about itself: its version, its configuration, and whether it has what a machine needs.

The configuration is the file that the kernel's build writes (Documentation/kbuild/kconfig.rst); a kernel may carry it in itself
(CONFIG_IKCONFIG: gzip between ``IKCFG_ST`` and ``IKCFG_ED``, kernel/configs.c).
"""

from __future__ import annotations

import mmap
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..guest.modules import REQUIRED, available
from ..model.errors import BadRequest

_OPTION: Final = re.compile(r"^CONFIG_([A-Za-z0-9_]+)=(.*)$", re.MULTILINE)
_BANNER: Final = re.compile(rb"Linux version ([0-9][A-Za-z0-9.+~_-]{0,63}) \(")
_EMBEDDED: Final = b"IKCFG_ST\x1f\x8b\x08"
_PVH_NOTE: Final = re.compile(rb"\x04\0\0\0[\x04\x08]\0\0\0\x12\0\0\0Xen\0")
"""The ELF note with the PVH entry (XEN_ELFNOTE_PHYS32_ENTRY, include/xen/interface/elfnote.h)."""
_CONFIG_LIMIT: Final = 4 * 1024 * 1024

BUILT_IN: Final[Mapping[str, str]] = {
    "64BIT": "machines are x86-64",
    "BLK_DEV_INITRD": "the guest program comes in an initramfs",
    "PVH": "QEMU's microvm and Firecracker start an ELF kernel by its PVH entry",
    "BINFMT_ELF": "programs are ELF files",
    "DEVTMPFS": "/dev is made of it",
    "TMPFS": "/run is made of it",
    "PROC_FS": "/proc is made of it",
    "SYSFS": "disks are found in /sys",
    "UNIX": "sockets inside the guest",
    "UNIX98_PTYS": "shells have a terminal",
    "EPOLL": "the guest program waits with it",
    "SIGNALFD": "the guest program hears of ended processes by it",
    "TIMERFD": "the guest program keeps its deadlines with it",
    "SERIAL_8250_CONSOLE": "the console of `banger vm logs` is a serial port",
}
"""Options that must be ``y``, and why."""
DRIVERS: Final[Mapping[str, str]] = {
    "virtio_mmio": "VIRTIO_MMIO",
    "virtio_console": "VIRTIO_CONSOLE",
    "virtio_blk": "VIRTIO_BLK",
    "overlay": "OVERLAY_FS",
    "ext4": "EXT4_FS",
}
"""Drivers that may be built in or modules, and their options."""
_FINDABLE: Final = ("ACPI", "VIRTIO_MMIO_CMDLINE_DEVICES")
"""One of them tells the kernel where the virtio devices are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """What a kernel declares."""

    version: str
    """``uname -r``."""
    virtio: str
    """``built in`` or ``modules``: where the drivers of the machine's devices are."""
    console: str = "ttyS0"
    format: str = "elf"


def declare(vmlinux: Path, modules: Path, config: str) -> Declared:
    """What the ELF kernel ``vmlinux`` with the tree ``modules`` (content of /lib/modules/VERSION; may be missing) and the text ``config`` ("" = not known) is.

    Raises BadRequest that names every option or driver that is missing.
    """
    options = parse(config or embedded_config(vmlinux))
    built_in, as_modules = available(modules) if modules.is_dir() else (frozenset(), frozenset())
    built_in |= {driver for driver, option in DRIVERS.items() if options.get(option) == "y"}
    lacking = [*_missing_options(options), *_missing_entry(options, vmlinux), *_missing_drivers(options, built_in, as_modules)]
    if lacking:
        raise BadRequest(f"this kernel cannot run a machine: {'; '.join(lacking)}", hint=_remedy(options))
    return Declared(version=version_of(vmlinux), virtio="built in" if built_in.issuperset(REQUIRED) else "modules")


def parse(config: str) -> Mapping[str, str]:
    """Option without ``CONFIG_`` -> value; those that are not set are absent."""
    return dict(_OPTION.findall(config))


def version_of(vmlinux: Path) -> str:
    """``uname -r`` of the kernel, from its banner. Raises BadRequest when it has none."""
    with vmlinux.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as content:
        found = _BANNER.search(content)
        if found is None:
            raise BadRequest(f"{vmlinux.name} does not say which version of Linux it is", hint="give the vmlinux or bzImage of a Linux kernel")
        return found[1].decode()


def embedded_config(vmlinux: Path) -> str:
    """The configuration that the kernel carries in itself; "" when it does not. Raises BadRequest when it is damaged."""
    with vmlinux.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as content:
        start = content.find(_EMBEDDED)
        if start < 0:
            return ""
        packed = content[start + 8 : start + 8 + _CONFIG_LIMIT]
    unpacker = zlib.decompressobj(31)
    try:
        text = unpacker.decompress(packed, _CONFIG_LIMIT)
    except zlib.error as error:
        raise BadRequest(f"the configuration inside {vmlinux.name} is damaged: {error}", hint="give its .config with --config") from error
    if not unpacker.eof:
        raise BadRequest(f"the configuration inside {vmlinux.name} is longer than {_CONFIG_LIMIT} bytes", hint="give its .config with --config")
    return text.decode(errors="replace")


def _missing_options(options: Mapping[str, str]) -> list[str]:
    if not options:
        return []  # nothing says what it has: its drivers decide, and the first boot
    missing = [f"CONFIG_{option}=y is missing ({why})" for option, why in BUILT_IN.items() if options.get(option) != "y"]
    if not any(options.get(option) == "y" for option in _FINDABLE):
        missing.append(f"neither CONFIG_{' nor CONFIG_'.join(_FINDABLE)} is set (the devices are found by one of them)")
    return missing


def _missing_entry(options: Mapping[str, str], vmlinux: Path) -> list[str]:
    if "PVH" in options or not options:
        with vmlinux.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as content:
            if _PVH_NOTE.search(content) is None:
                return [f"it has no PVH entry, as CONFIG_PVH=y would give it ({BUILT_IN['PVH']})"]
    return []


def _missing_drivers(options: Mapping[str, str], built_in: frozenset[str], as_modules: frozenset[str]) -> list[str]:
    missing = []
    for driver, option in DRIVERS.items():
        if driver in built_in or driver in as_modules:
            continue
        module = options.get(option) == "m"
        missing.append(f"CONFIG_{option}=m, but {driver}.ko is not among its modules" if module else f"CONFIG_{option} is not set")
    return missing


def _remedy(options: Mapping[str, str]) -> str:
    if not options:
        return "its configuration is not known: give it with --config, and its modules with --modules"
    return "build it with these options, or use one of: banger kernel list --available"
