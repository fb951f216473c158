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
    """Unix stream socket of passt to connect to; None = the VMM's built-in user-mode stack."""


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
