"""What is said over the channel, as types, and their encoding (docs/agent-protocol.md, sections 4 and 6, has the tag numbers)."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ..model.errors import BadRequest, BadVersion, GuestError
from ..model.machine import NetworkCard
from .fields import Fields, i64, nested, pack, text, u8, u32
from .frames import MAX_PAYLOAD, PROTOCOL_VERSION

WAITING, CONFIGURING, READY, BOOTED = range(4)
"""States of the guest program."""

MAX_CONFIGURATION: Final = 16 * 1024 * 1024
MAX_REQUEST: Final = MAX_PAYLOAD - 10
"""Longest request that fits into an OPEN behind the field with the operation's number."""
MAX_LISTENERS: Final = 512
MAX_FILE_SYSTEMS: Final = 256
_NAME_LIMIT: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """What the guest program says of itself."""

    state: int
    """0 waiting for configure, 1 configuring, 2 ready, 3 booted."""
    boot_id: str
    kernel: str
    program: str
    """Build id of the guest program."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileToWrite:
    """A file to make in the guest."""

    path: str
    content: bytes
    mode: int = 0o644
    uid: int = 0
    gid: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """Everything that makes this guest this one."""

    hostname: str
    root_mode: int
    """1 = overlay of the disks ``base`` and ``overlay``, 2 = the disk ``base`` alone."""
    work_disk: bool
    card: NetworkCard | None
    files: tuple[FileToWrite, ...] = ()
    time_ns: int
    """Wall clock, nanoseconds since 1970."""
    entropy: bytes
    ext4_paths: tuple[str, ...] = ("/var/lib/docker", "/var/lib/containerd")
    init: str = ""
    """Run this instead of the image's own init."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Configured:
    """The root is assembled and the image's init is about to run."""

    uptime_us: int
    init: str
    """What is executed; ``banger`` when the guest program stays pid 1 itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """A socket in the guest that waits for connections or datagrams."""

    protocol: str
    """``tcp``, ``tcp6``, ``udp`` or ``udp6``."""
    address: str
    port: int
    pid: int
    """0 = unknown."""
    process: str
    command: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSystem:
    """A mounted file system of the guest; sizes in bytes."""

    path: str
    size: int
    available: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestStats:
    """What the guest uses; sizes in bytes."""

    uptime_us: int
    memory_total: int
    memory_available: int
    load: float
    """Load average over one minute."""
    processes: int
    file_systems: tuple[FileSystem, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestTime:
    """The guest's clocks."""

    now_ns: int
    """Nanoseconds since 1970."""
    uptime_us: int


def exec_request(
    *,
    argv: Sequence[str],
    env: Mapping[str, str],
    cwd: str,
    user: str,
    tty: bool,
    rows: int,
    columns: int,
    stdin: bool,
    make_cwd: bool = False,
) -> bytes:
    """Request of ``exec``; no ``argv`` = the user's login shell, "" = the user's home, root. ``make_cwd``: ``cwd`` is made when it is missing.

    Raises BadRequest for words that cannot be passed to a program, or more than a frame holds.
    """
    fields = [(16, text(argument)) for argument in argv]
    fields += [(17, text(f"{_variable(name)}={value}")) for name, value in env.items()]
    if cwd:
        fields.append((18, text(cwd)))
    if user:
        fields.append((19, text(user)))
    fields += [(20, u8(tty)), (21, u32(_cells(rows))), (22, u32(_cells(columns))), (23, u8(stdin))]
    if make_cwd:
        fields.append((24, u8(make_cwd)))
    request = pack(*fields)
    if len(request) > MAX_REQUEST:
        raise BadRequest(
            f"the command and its environment have {len(request)} bytes, at most {MAX_REQUEST} can be passed", hint="put long data into a file or stdin"
        )
    return request


def connect_request(address: str, port: int = 0) -> bytes:
    """Request of ``connect``: an IP address of the guest ("" = 127.0.0.1) and a port, or the path of a unix socket, which begins with "/".

    Raises BadRequest for anything else.
    """
    if address.startswith("/"):
        return pack((16, text(address)))
    if not 0 < port <= 0xFFFF:
        raise BadRequest(f"there is no port {port}", hint="ports are 1 to 65535")
    if address:
        _check_address(address)
    return pack((16, text(address)), (17, u32(port)))


def _check_address(address: str) -> None:
    try:
        ipaddress.ip_address(address)
    except ValueError:
        raise BadRequest(f"{address[:80]!r} is no IP address", hint="give an IP address, or the path of a unix socket") from None


def _variable(name: str) -> str:
    if not name or "=" in name:
        raise BadRequest(f"bad name of an environment variable: {name[:80]!r}", hint="write NAME=VALUE")
    return name


def _cells(number: int) -> int:
    if not 0 <= number <= 0xFFFF:
        raise BadRequest(f"a terminal cannot have {number} rows or columns")
    return number


def encode_configuration(configuration: Configuration) -> bytes:
    """Content of ``configure``. Raises BadRequest when it is longer than the protocol allows."""
    fields = [
        (16, text(configuration.hostname)),
        (17, u8(configuration.root_mode)),
        (18, u8(configuration.work_disk)),
        (22, i64(configuration.time_ns)),
        (23, configuration.entropy),
        *_network(configuration.card),
        *((21, _file(file)) for file in configuration.files),
        *((25, text(path)) for path in configuration.ext4_paths),
    ]
    if configuration.init:
        fields.append((24, text(configuration.init)))
    content = pack(*fields)
    if len(content) > MAX_CONFIGURATION:
        raise BadRequest(
            f"the guest's configuration has {len(content)} bytes, at most {MAX_CONFIGURATION} are allowed", hint="write large files after the start"
        )
    return content


def _network(card: NetworkCard | None) -> list[tuple[int, bytes]]:
    if card is None:
        return []
    network = nested((1, text(card.mac)), (2, text(card.address)), (3, u8(card.prefix)), (4, text(card.gateway)))
    return [(19, network), *((20, text(server)) for server in card.nameservers)]


def _file(file: FileToWrite) -> bytes:
    return nested((1, text(file.path)), (2, u32(file.mode)), (3, u32(file.uid)), (4, u32(file.gid)), (5, file.content))


def decode_hello(untrusted: bytes | memoryview) -> tuple[int, Hello]:
    """Nonce and content of a HELLO. Raises BadVersion for a guest program of another protocol version, GuestError when malformed."""
    fields = Fields.parse(untrusted)
    version = fields.u32(2)
    if version != PROTOCOL_VERSION:
        raise BadVersion(
            f"the program in the guest speaks version {version} of the agent protocol, this daemon speaks {PROTOCOL_VERSION}",
            hint="restart the VM",
        )
    hello = Hello(
        state=fields.u8(3),
        boot_id=fields.text(4, "", limit=_NAME_LIMIT),
        kernel=fields.text(5, "", limit=_NAME_LIMIT),
        program=fields.text(6, "", limit=_NAME_LIMIT),
    )
    if hello.state > BOOTED:
        raise GuestError(f"malformed message from the guest: unknown state {hello.state}")
    return fields.u64(1), hello


def decode_configured(fields: Fields) -> Configured:
    """RESULT of ``configure``."""
    return Configured(uptime_us=fields.u64(16), init=fields.text(17, ""))


def decode_listeners(fields: Fields) -> tuple[Listener, ...]:
    """RESULT of ``listeners``."""
    return tuple(
        Listener(
            protocol=one.text(1, limit=16),
            address=one.text(2, limit=_NAME_LIMIT),
            port=_port(one.u32(3)),
            pid=one.u32(4, 0),
            process=one.text(5, "", limit=_NAME_LIMIT),
            command=one.text(6, ""),
        )
        for one in fields.nested(16, at_most=MAX_LISTENERS)
    )


def _port(untrusted_number: int) -> int:
    if untrusted_number > 0xFFFF:
        raise GuestError(f"malformed message from the guest: port {untrusted_number}")
    return untrusted_number


def decode_stats(fields: Fields) -> GuestStats:
    """RESULT of ``stats``."""
    return GuestStats(
        uptime_us=fields.u64(16),
        memory_total=fields.u64(17),
        memory_available=fields.u64(18),
        load=fields.u32(19) / 1000,
        processes=fields.u32(21, 0),
        file_systems=tuple(FileSystem(path=one.text(1), size=one.u64(2), available=one.u64(3)) for one in fields.nested(20, at_most=MAX_FILE_SYSTEMS)),
    )


def decode_time(fields: Fields) -> GuestTime:
    """RESULT of ``time``."""
    return GuestTime(now_ns=fields.i64(16), uptime_us=fields.u64(17))
