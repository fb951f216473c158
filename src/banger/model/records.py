"""Records: what a VM, an image and a kernel are. Durable facts only; what the kernel says right now is in VMHandles."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

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
    autostart: bool = False
    """The first daemon after a boot of the host starts it."""
    cpu_quota: float = 0.0
    """CPUs that its VMM may use at once; 0 = as many as there are."""
    disk_bytes_per_second: int = 0
    """Of each of its disks; 0 = no limit."""
    disk_operations_per_second: int = 0
    network_bytes_per_second: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkspaceRecord:
    """The directory of the host that was prepared in a VM last."""

    id: str
    """Of the prepare; the guest has it too."""
    source_path: str
    """Top of the working tree on the host."""
    guest_path: str
    mode: Literal["shallow", "full", "files"]
    """How much of the history went in; ``files`` = no git at all."""
    head_commit: str = ""
    """What the host had checked out."""
    base_commit: str = ""
    """What the guest had checked out: another one with ``--branch --from``."""
    branch: str = ""
    """The guest's branch; "" = detached."""
    include_untracked: bool = False
    user: str = ""
    """Whose it is; "" = root."""
    shell: bool = True
    """The guest has /bin/sh."""
    tooling_log: str = ""
    """Where the guest keeps the log of the tools' installation; "" without one."""
    prepared_at: float = 0.0


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
    """``none``, ``passt``, ``builtin`` or ``bridge``, as it was last started; whether a card's link is up (its address may go out) is ``VMSpec.nat``."""
    address: str = ""
    """Its IPv4 address on the bridge, for its whole life; "" without a bridge."""
    tap: str = ""
    """The tap that teardown has to release, from before it is made until it is released; "" = none."""
    booted: bool = False
    """The image's own init has reported that it is up."""
    ready_seconds: float = 0.0
    """Launch of the VMM to ready, in seconds, of the last start."""
    kernel_name: str = ""
    kernel_version: str = ""
    """``uname -r`` of what the last start booted."""
    kernel_digest: str = ""
    """``sha256:...`` of its vmlinux."""
    started_at: float = 0.0
    """When the last start succeeded, seconds since 1970; 0 = never."""
    last_stop_reason: str = ""
    """Why it was last stopped, in words."""
    workspace: WorkspaceRecord | None = None

    @property
    def has_card(self) -> bool:
        """Whether it was last started with a network card."""
        return self.network != "none"


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
    """``state`` (the row says something else now), ``booted``, ``stage`` (a step begins), ``failure`` (an operation failed, a port could not be published
    again, or its network is gone), ``repaired`` (its network was gone for a while), or, only in answers, ``dropped`` (older events are not kept)."""
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
class ImageConfig:
    """What an image wants its programs to see, in the words of the OCI image specification (config.md); empty = it does not say."""

    environment: tuple[str, ...] = ()
    """``NAME=value``, each name once."""
    working_directory: str = ""
    user: str = ""
    """``user``, ``uid``, ``user:group`` or ``uid:gid``; names are those of the image's own /etc/passwd and /etc/group."""
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    """Arguments of the entrypoint, or the whole command when there is none."""
    exposed_ports: tuple[str, ...] = ()
    """``80/tcp``, sorted."""
    stop_signal: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    """Name and value, sorted by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRecord:
    """A root file system that VMs share read-only."""

    id: str
    name: str
    source: str
    """Where it came from, e.g. ``recipe:debian-bookworm``, ``docker://...``, ``file:/...``."""
    path: str
    """Directory that holds ``rootfs.ext4`` and ``manifest.json``."""
    digest: str
    """``sha256:...`` of rootfs.ext4."""
    size_bytes: int
    """Apparent size of rootfs.ext4."""
    kernel_name: str
    created_at: float
    last_used_at: float = 0.0
    reference: str = ""
    """What it is also found by: the canonical reference of a container image, or the absolute path of a file; "" when there is none."""
    manifest_digest: str = ""
    """``sha256:...`` of what a container reference led to when it was pulled."""
    revision: str = ""
    """State of the file, bundle or recipe that it was made of; another one means that the image is out of date."""
    config: ImageConfig = field(default_factory=ImageConfig)
    """Defaults of the programs that are run in its machines."""
    managed: bool = True
    """False: ``rootfs.ext4`` is a link to a file of the user's."""
    superseded: bool = False
    """A newer image has taken its name; it is kept while machines use it."""


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
    format: str = "elf"
    """How its file is started: ``elf``, by its PVH entry."""
    console: str = "ttyS0"
    virtio: str = ""
    """Where the drivers of the machine's devices are: ``built in`` or ``modules``; "" = made before this was noted."""
