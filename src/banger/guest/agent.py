"""The program in the guest, as the daemon uses it: one method per operation of docs/agent-protocol.md."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

from .call import Call
from .channel import Channel
from .connection import Connection
from .fields import i64, pack, text, u8, u32
from .file_messages import (
    GuestUser,
    PathStatus,
    Unpacked,
    decode_path_status,
    decode_unpacked,
    decode_user,
    stat_request,
    unpack_request,
    user_request,
)
from .forward import Forwarded
from .frames import Frame, Operation
from .job_messages import GuestJob, decode_job_started, decode_jobs, job_list_request, job_signal_request
from .messages import (
    BOOTED,
    READY,
    Configuration,
    Configured,
    FileSystem,
    FileToWrite,
    GuestStats,
    GuestTime,
    Hello,
    Listener,
    connect_request,
    decode_configured,
    decode_listeners,
    decode_stats,
    decode_time,
    encode_configuration,
    exec_request,
)
from .outcome import ExecOutcome

__all__ = [
    "BOOTED",
    "READY",
    "Agent",
    "Configuration",
    "Configured",
    "Connection",
    "FileSystem",
    "FileToWrite",
    "Forwarded",
    "GuestStats",
    "GuestTime",
    "Hello",
    "Listener",
    "connect_request",
    "exec_request",
]


class Agent:
    """A live connection to the program in one guest.

    Every operation raises ChannelLost when the channel ends first, and GuestError (with ``guest_code``) when the guest says no.
    None has a deadline of its own: use ``asyncio.timeout``; cancelling the caller cancels the operation in the guest.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    @classmethod
    async def greet(cls, sock: socket.socket, *, deadline: float) -> Agent:
        """Wait at most ``deadline`` seconds for the guest that is booting to say hello; nothing is written before it does.

        Takes over the socket. Raises GuestTimeout, ChannelLost, BadVersion.
        """
        return cls(await Channel.connect(sock, deadline=deadline, attach=False))

    @classmethod
    async def attach(cls, sock: socket.socket, *, deadline: float) -> Agent:
        """Resume the conversation with a guest that a former daemon left at any byte; all streams of that time end.

        Takes over the socket. Raises GuestTimeout after ``deadline`` seconds, ChannelLost, BadVersion.
        """
        return cls(await Channel.connect(sock, deadline=deadline, attach=True))

    @property
    def hello(self) -> Hello:
        """What the guest said of itself, with its present state."""
        return self._channel.hello

    @property
    def closed(self) -> bool:
        """The channel has ended."""
        return self._channel.closed

    @property
    def busy(self) -> bool:
        """Operations or streams are open: somebody waits for this guest."""
        return self._channel.busy

    async def wait_booted(self) -> None:
        """Return when the image's init has reported that it is up."""
        await self._channel.wait_booted()

    async def wait_closed(self) -> None:
        """Return when the channel has ended."""
        await self._channel.wait_closed()

    async def close(self) -> None:
        """Drop the channel; the guest and its commands go on until the next ``attach``."""
        await self._channel.close()

    async def configure(self, configuration: Configuration) -> Configured:
        """Give the guest its identity and root; returns when the image's init is about to run. Accepted once."""
        fields = await Call(self._channel).run(Operation.CONFIGURE, upload=encode_configuration(configuration))
        configured = decode_configured(fields)
        self._channel.reached(READY)
        return configured

    async def ping(self) -> float:
        """Round trip in seconds."""
        begin = time.perf_counter()
        await self._channel.ping()
        return time.perf_counter() - begin

    async def read_file(self, path: str, *, limit: int) -> bytes:
        """Content of a regular file; GuestError when it is longer than ``limit`` bytes."""
        call = Call(self._channel, limit=limit)
        await call.run(Operation.READ, pack((16, text(path))))
        return bytes(call.content)

    async def write_file(self, file: FileToWrite, *, parents: bool = False) -> None:
        """Replace a file in one step; ``parents`` makes missing directories."""
        request = pack((16, text(file.path)), (17, u32(file.mode)), (18, u32(file.uid)), (19, u32(file.gid)), (20, u8(parents)))
        await Call(self._channel).run(Operation.WRITE, request, upload=file.content)

    async def listeners(self) -> tuple[Listener, ...]:
        """Sockets in the guest that wait for connections or datagrams, at most 512."""
        return decode_listeners(await Call(self._channel).run(Operation.LISTENERS))

    async def stats(self) -> GuestStats:
        """What the guest uses."""
        return decode_stats(await Call(self._channel).run(Operation.STATS))

    async def shutdown(self, mode: int) -> None:
        """Begin to go down: 0 = ask the image's init, 1 = sync and power off at once, 2 = sync and reboot at once. Returns before it is done."""
        await Call(self._channel).run(Operation.SHUTDOWN, pack((16, u8(mode))))

    async def time(self, set_ns: int | None = None) -> GuestTime:
        """The guest's clocks, after setting the wall clock to ``set_ns`` (nanoseconds since 1970) when given."""
        request = b"" if set_ns is None else pack((16, i64(set_ns)))
        return decode_time(await Call(self._channel).run(Operation.TIME, request))

    async def sync(self) -> None:
        """Flush all file systems of the guest."""
        await Call(self._channel).run(Operation.SYNC)

    async def unpack(self, stream: bytes, *, destination: str, uid: int | None = None, gid: int | None = None, parents: bool = False) -> Unpacked:
        """Make the files of a tree stream (``tree_stream``) beneath ``destination``; large ones are streamed by the client instead."""
        request = unpack_request(destination=destination, uid=uid, gid=gid, parents=parents)
        return decode_unpacked(await Call(self._channel).run(Operation.UNPACK, request, upload=stream))

    async def stat_path(self, path: str, *, follow: bool = False) -> PathStatus:
        """What is at an absolute path; ``guest_code`` is ``not_found`` when there is nothing."""
        return decode_path_status(await Call(self._channel).run(Operation.STAT, stat_request(path=path, follow=follow)))

    async def user(self, name: str = "") -> GuestUser:
        """Who a user is, by name or number; "" = root."""
        return decode_user(await Call(self._channel).run(Operation.USER, user_request(name)))

    async def start_job(self, request: bytes) -> int | ExecOutcome:
        """Start what ``job_start_request`` describes: the pid, or why the command could not be started."""
        return decode_job_started(await Call(self._channel).run(Operation.JOB_START, request))

    async def jobs(self, id: str = "") -> tuple[GuestJob, ...]:
        """The job of that id (GuestError when there is none), or all of them."""
        return decode_jobs(await Call(self._channel).run(Operation.JOB_LIST, job_list_request(id)))

    async def signal_job(self, id: str, number: int) -> None:
        """Send a signal to the process group of a running job."""
        await Call(self._channel).run(Operation.JOB_SIGNAL, job_signal_request(id=id, number=number))

    async def connect(self, address: str, port: int = 0) -> Connection:
        """Connect to a socket inside the guest; arguments as for ``connect_request``. Gives up after 10 s.

        ``guest_code`` of the error tells why not: ``refused``, ``not_found``, ``timed_out``, ``permission`` or ``io``. Raises BadRequest.
        """
        return await Connection.open(self._channel, connect_request(address, port))

    def forward(self, operation: int, request: bytes, on_frame: Callable[[Frame], None], on_lost: Callable[[], None]) -> Forwarded:
        """Open a stream for a client and move its frames unread.

        ``request`` is the packed fields without the operation's number. ``on_frame`` gets OPENED, DATA, EOF, WINDOW, RESULT and ERROR
        as the client shall see them (stream 1, epoch 0), from the event loop: it must neither block nor keep more than the credit that the
        client gave. After RESULT or ERROR nothing comes; ``on_lost`` is called when the channel ends before. Raises ChannelLost, GuestError.
        """
        stream = Forwarded(self._channel, on_frame, on_lost)
        stream.start(operation, request)
        return stream
