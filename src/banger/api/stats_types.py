"""Reply types about what machines use."""

from __future__ import annotations

from ..model.machine import GroupUsage
from ..model.records import VMState
from .messages import Reply


class ProcessStats(Reply, frozen=True):
    """What a machine's VMM process uses. ``cpu_percent``: 100 = one CPU, over the last ``cpu_window`` seconds."""

    pid: int
    cpu_percent: float
    cpu_window: float
    cpu_seconds: float
    """CPU time since the process began."""
    rss_bytes: int
    pss_bytes: int | None
    """Shared pages by share; null where the host does not let the daemon see it."""


class FileSystem(Reply, frozen=True):
    """A file system of a guest."""

    path: str
    size_bytes: int
    available_bytes: int


class GuestStats(Reply, frozen=True):
    """What a guest says that it uses. ``uptime`` is in seconds, ``load`` the average over a minute."""

    uptime: float
    memory_total_bytes: int
    memory_available_bytes: int
    load: float
    processes: int
    file_systems: tuple[FileSystem, ...]


class NetworkStats(Reply, frozen=True):
    """What has passed between a machine on the bridge and the outside since it was let out (``--nat``)."""

    sent_packets: int
    sent_bytes: int
    received_packets: int
    received_bytes: int


class VMStats(Reply, frozen=True):
    """``GET /v1/vms/{ref}/stats``. ``process`` and ``guest`` are null when the machine does not run, ``guest`` also when ``guest_error`` says why; ``network``
    when it is not on a bridge or not let out.
    """

    id: str
    name: str
    state: VMState
    collected_at: float
    overlay_allocated_bytes: int
    work_allocated_bytes: int
    process: ProcessStats | None = None
    guest: GuestStats | None = None
    guest_error: str = ""
    network: NetworkStats | None = None
    bounds: GroupUsage | None = None
    """null also where VMMs run without a cgroup of their own."""
