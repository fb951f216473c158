"""The host itself: processor, memory, disks, clock, limits."""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ..host import facts
from ..model.limits import FLOOR_MEMORY_MIB
from ..model.sizes import GIB, MIB, format_size
from .ground import Ground
from .outcome import Result, failed, passed, skipped, warned

_SPACE_NEEDED: Final = 1 * GIB
_SPACE_WANTED: Final = 6 * GIB
_INODES_WANTED: Final = 20_000
"""A container image unpacked for a build has about as many files; machines take a dozen each."""
_DESCRIPTORS_WANTED: Final = 4096
"""A running machine takes about twenty of the daemon."""
_WRITTEN: Final = 1_760_000_000
"""Seconds since 1970 when this was written, in October 2025: no clock that goes right says less."""
_UNSYNCHRONISED: Final = 0x40
"""STA_UNSYNC, adjtimex(2)."""
_NETWORK: Final = {"nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "afs", "ceph", "glusterfs", "virtiofs"}
_NOT_SPARSE: Final = {"vfat", "exfat", "msdos", "hfs", "hfsplus", "ntfs"}
_REFLINKS: Final = {"btrfs", "xfs", "bcachefs", "ocfs2", "zfs"}
_SPACE_REMEDY: Final = "banger image prune, banger vm prune; or free some space there, or set BANGER_HOME to a larger file system"


def architecture(_: Ground) -> Result:
    """Kernels and the guest program are made for one."""
    machine = platform.machine()
    return passed(machine) if machine == "x86_64" else failed(f"{machine}: kernels and the guest program are made for x86_64", "use an x86-64 host")


def memory(ground: Ground) -> Result:
    """Room for one machine."""
    values = dict(line.split(":", 1) for line in ground.read("/proc/meminfo").splitlines())
    available = int(values.get("MemAvailable", "0 kB").split()[0]) * 1024
    detail = f"{format_size(available)} of {format_size(facts.memory_bytes())} available"
    if available >= FLOOR_MEMORY_MIB * MIB:
        return passed(detail)
    return warned(detail, f"machines take {FLOOR_MEMORY_MIB} MiB unless told otherwise: use --memory, or stop some (banger vm list)")


def disk_space(ground: Ground) -> Result:
    """Where machines and images lie."""
    free = shutil.disk_usage(nearest(ground.layout.state)).free
    detail = f"{format_size(free)} free in {ground.layout.state}"
    if free >= _SPACE_WANTED:
        return passed(detail)
    return warned(detail, _SPACE_REMEDY) if free >= _SPACE_NEEDED else failed(detail, _SPACE_REMEDY)


def inodes(ground: Ground) -> Result:
    """Files that can still be made there; file systems without a fixed number say 0 of 0."""
    info = os.statvfs(nearest(ground.layout.state))
    if info.f_files == 0:
        return passed("made as they are needed")
    detail = f"{info.f_favail} of {info.f_files} free in {ground.layout.state}"
    return passed(detail) if info.f_favail >= _INODES_WANTED else warned(detail, _SPACE_REMEDY)


def file_system(ground: Ground) -> Result:
    """What it must have: writing, locks that hold, sparse files. What is nice: copies that share their blocks."""
    place, kind, options = mount_of(nearest(ground.layout.state), ground.read("/proc/self/mountinfo"))
    detail = f"{kind} at {place}"
    elsewhere = "set BANGER_HOME to a directory on a local file system (ext4, xfs, btrfs)"
    if "ro" in options:
        return failed(f"{detail} is read-only", f"sudo mount -o remount,rw {place}")
    if kind in _NETWORK:
        return failed(f"{detail} is a network file system: the database's locks do not hold there", elsewhere)
    if kind in _NOT_SPARSE:
        return failed(f"{detail} has no sparse files, so every disk would take its whole size", elsewhere)
    if kind in ("tmpfs", "ramfs"):
        return warned(f"{detail} is in memory: machines and images end with the host's boot", elsewhere)
    return passed(detail + (", copies share their blocks" if kind in _REFLINKS else ", sparse files"))


def clock(_: Ground) -> Result:
    """Guests take it over; certificates are not valid in the past."""
    now = time.time()
    shown = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
    if now < _WRITTEN:
        return failed(f"{shown} cannot be right, and guests take it over: TLS will fail", "sudo timedatectl set-ntp true, or sudo date --set=...")
    return passed(f"{shown}, {'synchronised' if _is_synchronised() else 'nothing has told the kernel that it is synchronised'}")


def _is_synchronised() -> bool:
    """By adjtimex(2), which only reads with modes = 0; ``status`` is the int behind five longs."""
    timex = ctypes.create_string_buffer(512)
    state = ctypes.CDLL(None, use_errno=True).adjtimex(timex)
    return bool(state >= 0) and not int.from_bytes(timex.raw[40:44], "little") & _UNSYNCHRONISED


def open_files(_: Ground) -> Result:
    """What the daemon may raise its limit to; that of an installed system's is in its unit."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard == resource.RLIM_INFINITY or hard >= _DESCRIPTORS_WANTED:
        return passed("no limit" if hard == resource.RLIM_INFINITY else f"up to {hard}")
    return warned(
        f"up to {hard}: enough for about {hard // 20} machines", "echo '* hard nofile 65536' | sudo tee /etc/security/limits.d/banger.conf; log in again"
    )


def swappiness(ground: Ground) -> Result:
    """Memory that the host swaps out makes a guest stand still."""
    swaps = ground.read("/proc/swaps").splitlines()[1:]
    if not swaps:
        return passed("no swap: machines' memory stays in memory")
    return passed(f"{len(swaps)} in use: machines' memory may be swapped out when the host is short of it")


def container(ground: Ground) -> Result:
    """Inside a container much of what else is found is decided outside of it."""
    marks = {"/.dockerenv": "Docker", "/run/.containerenv": "Podman"}
    found = [name for path, name in marks.items() if ground.at(path).exists()]
    if words := [word for word in ground.read("/proc/1/environ").split("\0") if word.startswith("container=")]:
        found.append(words[0].partition("=")[2])
    return passed(f"inside a container ({found[0]}): devices, modules and limits are decided outside") if found else skipped("no container")


def nearest(path: Path) -> Path:
    """``path``, or the nearest directory above that is there."""
    return next(one for one in (path, *path.parents) if one.exists())


def mount_of(path: Path, mountinfo: str) -> tuple[str, str, frozenset[str]]:
    """Mount point, type and options (of the mount and of its file system) of the file system with ``path`` (proc(5), mountinfo)."""
    best: tuple[str, str, frozenset[str]] = ("/", "unknown", frozenset())
    resolved = path.resolve()
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        fields, (kind, _, options) = before.split(), after.split(maxsplit=2)
        place = fields[4].encode().decode("unicode_escape")
        if resolved.is_relative_to(place) and len(place) >= len(best[0]):
            best = place, kind, frozenset((*fields[5].split(","), *options.split(",")))
    return best


CHECKS: Final[tuple[tuple[str, str, Callable[[Ground], Result]], ...]] = (
    ("host.architecture", "architecture", architecture),
    ("host.container", "container", container),
    ("host.memory", "memory", memory),
    ("host.swap", "swap", swappiness),
    ("host.disk-space", "disk space", disk_space),
    ("host.inodes", "inodes", inodes),
    ("host.file-system", "file system", file_system),
    ("host.clock", "clock", clock),
    ("host.open-files", "open files", open_files),
)
