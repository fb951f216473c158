"""Request and reply types of the contract. Requests refuse unknown fields; replies reuse the model's records."""

from __future__ import annotations

from typing import Literal

import msgspec

from ..model.forwards import Forward
from ..model.rates import Rates
from ..model.records import VMRecord, WorkspaceRecord
from .messages import Reply, Request

API_VERSION = 1

Wait = Literal["ready", "booted"]


class CreateVM(Request, frozen=True):
    """``POST /v1/vms``. Omitted numbers take the host's defaults. Sizes are bytes."""

    name: str = ""
    image: str = ""
    vcpu_count: int | None = None
    memory_mib: int | None = None
    system_overlay_bytes: int | None = None
    work_disk_bytes: int | None = None
    nat: bool = False
    publish: tuple[Forward, ...] = ()
    ttl: float = 0.0
    """Seconds after its start at which it is stopped; 0 = never."""
    idle: float | None = None
    """Seconds without use after which it is stopped; 0 = never, omitted = as the instance's configuration says."""
    autostart: bool = False
    """The first daemon after a boot of the host starts it."""
    rates: Rates = Rates()
    start: bool = True
    wait: Wait = "ready"
    lease: str = ""
    """Lease that the VM lives under: it is deleted when the lease ends (``--rm``)."""
    credentials: str = ""
    """Absolute path of the caller's file with logins for registries, for an image that has to be pulled; "" = there is none."""


class StartVM(Request, frozen=True):
    """``POST /v1/vms/{ref}/start`` and ``/restart``."""

    wait: Wait = "ready"


class StopVM(Request, frozen=True):
    """``POST /v1/vms/{ref}/stop``. ``timeout`` is in seconds."""

    timeout: float = 15.0


class KillVM(Request, frozen=True):
    """``POST /v1/vms/{ref}/kill``."""

    signal: str = "TERM"


class SetVM(Request, frozen=True):
    """``POST /v1/vms/{ref}/set``: what a machine shall be; what is omitted stays. Sizes are bytes and only grow.

    A machine that runs can change its published ports, ``ttl``, ``idle``, ``autostart`` and, when it was started with a network card, ``nat``; at once.
    """

    vcpu_count: int | None = None
    memory_mib: int | None = None
    system_overlay_bytes: int | None = None
    work_disk_bytes: int | None = None
    nat: bool | None = None
    ttl: float | None = None
    """Seconds after its start at which it is stopped; 0 = never."""
    idle: float | None = None
    """Seconds without use after which it is stopped; 0 = never."""
    autostart: bool | None = None
    """Whether the first daemon after a boot of the host starts it."""
    rates: Rates = Rates()
    """``cpu_quota`` changes at once also while it runs."""
    publish: tuple[Forward, ...] = ()
    """Ports of this host to publish besides."""
    unpublish: tuple[str, ...] = ()
    """``[BIND:]HOSTPORT`` of those to take back."""


class CollectGarbage(Request, frozen=True):
    """``POST /v1/gc``. ``dry_run``: only say what there is."""

    dry_run: bool = False


class Empty(Request, frozen=True):
    """A request without a body."""


class Exec(Request, frozen=True):
    """``POST /v1/vms/{ref}/exec``: what to run; no ``argv`` = the user's login shell. Size is that of the caller's terminal.

    Environment, directory and user are added to those of the machine's image, or take their place.
    """

    argv: tuple[str, ...] = ()
    env: dict[str, str] = msgspec.field(default_factory=dict)
    cwd: str = ""
    user: str = ""
    tty: bool = False
    rows: int = 24
    columns: int = 80
    stdin: bool = True
    start: bool = False
    """As a container starts: ``argv`` follows the image's entrypoint, and without ``argv`` the image's own command does."""
    entrypoint: tuple[str, ...] | None = None
    """Takes the place of the image's entrypoint and command."""


class SetWorkspace(Request, frozen=True):
    """``POST /v1/vms/{ref}/workspace``: note what was prepared in a machine; null forgets it."""

    workspace: WorkspaceRecord | None


class ConnectVM(Request, frozen=True):
    """``POST /v1/vms/{ref}/connect``: a TCP port on the machine's loopback address, or the absolute path of a unix socket in it."""

    port: int = 0
    path: str = ""


class ForwardVM(Request, frozen=True):
    """``POST /v1/vms/{ref}/forward``: listen for these; host port 0 = any."""

    forwards: tuple[Forward, ...]


class Forwarding(Reply, frozen=True):
    """Forwards that are open, with their real ports, for as long as a connection to attach.sock that named the token is."""

    token: str
    forwards: tuple[Forward, ...]


class SshFiles(Reply, frozen=True):
    """``GET /v1/ssh``: what an ssh client needs, as paths."""

    config: str
    include: str
    """The line for a configuration of one's own."""
    identity: str
    known_hosts: str


class StreamTicket(Reply, frozen=True):
    """A stream that waits for its client on attach.sock; the token works once, for 30 seconds."""

    token: str


class Lease(Reply, frozen=True):
    """A lease: held for as long as a connection to attach.sock that named the token is open."""

    id: str
    token: str


class ErrorBody(Reply, frozen=True):
    """Body of every failed reply, under the key ``error``."""

    code: str
    message: str
    hint: str = ""
    op_id: str = ""
    vm: str = ""


class Event(Reply, frozen=True):
    """One line of an operation's event stream (NDJSON). The last one has ``done`` set."""

    stage: str = ""
    message: str = ""
    progress: float | None = None
    """0..1 where it is known."""
    elapsed: float = 0.0
    """Seconds since the operation began."""
    warning: bool = False
    done: bool = False
    error: ErrorBody | None = None
    result: msgspec.Raw = msgspec.field(default_factory=lambda: msgspec.Raw(b"null"))


class Operation(Reply, frozen=True):
    """``GET /v1/operations/{id}``."""

    id: str
    kind: str
    target: str
    state: Literal["running", "done", "failed", "cancelled"]
    stage: str
    started_at: float
    updated_at: float
    error: ErrorBody | None = None


class Deleted(Reply, frozen=True):
    """What a deletion reports."""

    id: str
    name: str


class Leftover(Reply, frozen=True):
    """Something of this instance that nothing needs any more (``gc``)."""

    kind: Literal["machine", "scope", "network", "tap", "socket", "staging", "mount", "directory"]
    what: str
    """A path, a process and its pid, or the name of a tap."""
    vm_id: str = ""
    """The machine that it belonged to, when that is known."""
    removed: bool = False
    error: str = ""
    """Why it could not be removed."""


class PublishedPort(Reply, frozen=True):
    """A port of this host that leads into a machine."""

    endpoint: str
    guest_port: int
    open: bool
    """Somebody can connect: the machine runs, and the port was free."""
    error: str = ""
    """Why it is not open although the machine runs."""


class VMDetail(Reply, frozen=True):
    """``GET /v1/vms/{ref}``: the record and what the host shows right now."""

    record: VMRecord
    alive: bool
    pid: int | None
    directory: str
    console_log: str
    vmm_log: str
    overlay_allocated_bytes: int
    work_allocated_bytes: int
    guest_kernel: str = ""
    guest_program: str = ""
    published: tuple[PublishedPort, ...] = ()


class LogChunk(Reply, frozen=True):
    """``GET /v1/vms/{ref}/logs``: text from ``offset``; ask again from ``next_offset`` to follow."""

    text: str
    next_offset: int
    path: str
    exists: bool = True
    """There is such a log; not before the machine's first start."""


class Defaults(Reply, frozen=True):
    """``GET /v1/defaults``: the sizes that an omitted option takes, and where each comes from (``config``, ``auto`` or ``builtin``)."""

    vcpu_count: int
    memory_mib: int
    work_disk_bytes: int
    system_overlay_bytes: int
    image: str
    provenance: dict[str, str]


class Setting(Reply, frozen=True):
    """One value in force; ``source`` is ``config`` (the file), ``env``, ``option``, ``auto`` (this host) or ``builtin``."""

    key: str
    value: str | int
    source: str


class ConfigReport(Reply, frozen=True):
    """``GET /v1/config``: every setting of the running daemon. ``path`` is the file that it read, if there was one."""

    path: str
    settings: tuple[Setting, ...]


class VMHealth(Reply, frozen=True):
    """``GET /v1/vms/{ref}/health``: a machine that does not run is not healthy; one that runs and does not answer is an error."""

    name: str
    alive: bool
    healthy: bool
    guest_state: str = ""
    """``waiting``, ``configuring``, ``ready`` or ``booted``."""
    round_trip: float | None = None
    """Seconds to the agent and back."""


class VMPing(Reply, frozen=True):
    """``GET /v1/vms/{ref}/ping``."""

    name: str
    alive: bool


class Port(Reply, frozen=True):
    """Something in a guest that waits for connections or datagrams."""

    protocol: str
    addresses: tuple[str, ...]
    port: int
    process: str
    """"" when the guest cannot tell."""
    command: str
    endpoint: str = ""
    """How it is reached from this host; "" while it is not published."""
    http_status: int | None = None
    """Status with which it answers an HTTP request for ``/``; None when it does not, or was not asked."""


class VMPorts(Reply, frozen=True):
    """``GET /v1/vms/{ref}/ports``."""

    id: str
    name: str
    ports: tuple[Port, ...]


class Check(Reply, frozen=True):
    """One line of ``doctor``."""

    name: str
    status: Literal["pass", "warn", "fail"]
    detail: str
    remedy: str = ""


class DaemonStatus(Reply, frozen=True):
    """``GET /v1/daemon``."""

    pid: int
    version: str
    api_version: int
    socket: str
    log: str
    state_directory: str
    started_at: float
    running_vms: int
    """Without those of ``--rm``, which end with their caller or the daemon."""
