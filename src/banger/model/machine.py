"""MachineConfig: the machine that a VMM is asked to run. Deterministic and hashable; guest identity is not in here but in ``configure``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """A virtio block device; the guest finds it by ``serial`` (``base``, ``overlay``, ``work``)."""

    serial: str
    path: Path
    read_only: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkCard:
    """How the guest's one virtio network card is connected, and the address that the guest is told to take."""

    mac: str
    address: str
    prefix: int
    gateway: str
    nameservers: tuple[str, ...]
    socket: Path | None
    """Unix stream socket of passt to connect to; None = a tap, or the VMM's built-in user-mode stack."""
    tap: str = ""
    """Name of the host's tap that the driver opens and hands over; "" = none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of a VMM and its devices; 0 = none."""

    memory_max_bytes: int = 0
    """Of the process, all in all: the guest's memory and what the VMM needs besides."""
    cpu_quota: float = 0.0
    """CPUs that it may use at once, for example 1.5."""
    pids_max: int = 0
    io_weight: int = 0
    """1 to 10000, 100 is everybody's."""
    disk_bytes_per_second: int = 0
    """Of each disk."""
    disk_operations_per_second: int = 0
    """Of each disk."""
    network_bytes_per_second: int = 0
    """In each direction."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupUsage:
    """What a VMM's cgroup has used and been refused; None where the host does not count it."""

    cpu_periods: int | None = None
    """Tenths of a second in which it ran under a quota."""
    cpu_throttled_periods: int | None = None
    """Those of them in which it had to wait."""
    cpu_throttled_seconds: float | None = None
    memory_bytes: int | None = None
    """With the page cache of its files, which is given back when memory gets scarce."""
    memory_max_bytes: int | None = None
    oom_kills: int | None = None
    """Processes that the kernel has killed because the group was full."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineConfig:
    """Everything a VMM driver needs to launch one machine."""

    vm_id: str
    vm_dir: Path
    """Directory for sockets, console and VMM log of this VM; exists, mode 0700."""
    vcpu_count: int
    memory_mib: int
    kernel: Path
    """ELF vmlinux."""
    initramfs: Path
    disks: tuple[Disk, ...]
    card: NetworkCard | None
    uid: int
    """Run the VMM as this uid (and gid); -1 = as ourselves."""
    limits: Limits = Limits()
