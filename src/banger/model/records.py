"""Records: what a VM, an image and a kernel are. Durable facts only; what the kernel says right now is in VMHandles."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from .forwards import Forward


class VMState(StrEnum):
    """Where a VM is in its life. A deleted VM has no row."""

    CREATED = "created"
    RUNNING = "running"
    STOPPED = "stopped"
    ERROR = "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class VMSpec:
    """What was asked for."""

    vcpu_count: int
    memory_mib: int
    system_overlay_bytes: int
    work_disk_bytes: int
    nat: bool = False
    ttl_seconds: float = 0.0
    """It is stopped so long after its start; 0 = never."""
    idle_seconds: float | None = None
    """It is stopped when nobody has used it for so long; 0 = never, None = as the instance's configuration says."""
    publish: tuple[Forward, ...] = ()
    """Ports of this host that lead into it while it runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VMRuntime:
    """Durable facts about the VM's present life, and the identity that teardown needs when everything else is lost."""

    last_error: str = ""
    vmm: str = ""
    """Name of the driver that runs it, e.g. ``qemu``."""
    accelerator: str = ""
    """``kvm`` or ``tcg``."""
    vmm_uid: int = -1
    """Unprivileged uid of the VMM process and its disks when the daemon is root; -1 = the daemon's own."""
    network: str = "none"
    """``none``, ``passt`` or ``builtin``."""
    booted: bool = False
    """The image's own init has reported that it is up."""
    ready_seconds: float = 0.0
    """Launch of the VMM to ready, in seconds, of the last start."""
    started_at: float = 0.0
    """When the last start succeeded, seconds since 1970; 0 = never."""
    last_stop_reason: str = ""
    """Why it was last stopped, in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VMRecord:
    """A VM as stored. Times are seconds since 1970."""

    id: str
    name: str
    image_id: str
    image_name: str
    state: VMState
    created_at: float
    updated_at: float
    touched_at: float
    spec: VMSpec
    runtime: VMRuntime = field(default_factory=VMRuntime)
    remove: bool = False
    """``--rm``: the daemon deletes the VM when the lease that made it ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessIdentity:
    """A process that cannot be confused with a later one of the same pid: pid and start time (clock ticks since boot, field 22 of /proc/PID/stat)."""

    pid: int
    start_time: int


@dataclass(frozen=True, slots=True, kw_only=True)
class VMHandles:
    """What the machine shows right now. Never in SQLite: memory, and a per-VM ``handles.json``."""

    boot_id: str
    """The host's /proc/sys/kernel/random/boot_id when this was written; another one means that nothing here exists any more."""
    vmm: ProcessIdentity | None = None
    network_helper: ProcessIdentity | None = None
    """passt, when the VM has a network card."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VMEvent:
    """Something that happened to a VM. Cursors grow; a reader goes on after the last one it saw."""

    cursor: int
    kind: str
    """``state`` (the row says something else now), ``booted``, ``stage`` (a step begins), ``failure`` (an operation failed, or a port could not be published
    again), or, only in answers, ``dropped`` (older events are not kept)."""
    at: float = 0.0
    """Seconds since 1970."""
    vm_id: str = ""
    vm_name: str = ""
    operation: str = ""
    """Kind of the operation, e.g. ``vm.start``."""
    stage: str = ""
    state: str = ""
    """The new state; ``deleted`` when the row is gone."""
    message: str = ""
    op_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRecord:
    """A root file system that VMs share read-only."""

    id: str
    name: str
    source: str
    """Where it came from, e.g. ``recipe:debian-bookworm``."""
    path: str
    """Directory that holds ``rootfs.ext4`` and ``manifest.json``."""
    digest: str
    """``sha256:...`` of rootfs.ext4."""
    size_bytes: int
    """Apparent size of rootfs.ext4."""
    kernel_name: str
    created_at: float
    last_used_at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelRecord:
    """A bootable kernel: ELF vmlinux and its modules."""

    id: str
    name: str
    source: str
    path: str
    """Directory that holds ``vmlinux``, ``modules/`` (the content of /lib/modules/<version>) and ``manifest.json``."""
    version: str
    """``uname -r`` of the kernel."""
    digest: str
    """``sha256:...`` of vmlinux."""
    size_bytes: int
    created_at: float
