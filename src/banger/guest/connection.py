"""A connection to a socket inside the guest that the daemon makes for itself: the operation ``connect``."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Final

from ..model.errors import GuestError
from .call import CREDIT_STEP, window_of
from .channel import Channel
from .fields import u32
from .frames import INITIAL_WINDOW, MAX_PAYLOAD, STDIN, STDOUT, Frame, FrameType, Operation
from .outcome import decode_refusal

READ_SIZE: Final = 65536


class _Frames:
    """What the channel knows of a connection."""

    def __init__(self, connection: Connection) -> None:
        self.receive = connection._take_frame
        self.end = connection._end


class Connection:
    """Both directions of a connected socket; made by ``Agent.connect``, to be closed, best by ``async with``.

    One task may send while another receives. What is received and not asked for yet is at most 256 KiB: the guest has no credit for more.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._stream = 0
        self._moved = asyncio.Event()
        self._opened = False
        self._ended = False
        self._error: GuestError | None = None
        self._may_send = INITIAL_WINDOW
        self._sent_all = False
        self._received = bytearray()
        self._received_all = False
        self._may_receive = INITIAL_WINDOW
        self._owed = 0

    @classmethod
    async def open(cls, channel: Channel, request: bytes) -> Connection:
        """Connect; raises GuestError as the guest answered (``refused``, ``not_found``, ``timed_out``, ...), ChannelLost."""
        connection = cls(channel)
        connection._stream = channel.open(_Frames(connection), Operation.CONNECT, request)
        try:
            while not connection._opened:
                connection._check()
                if connection._ended:
                    raise GuestError("malformed message from the guest: a connection ended before it began")
                await connection._wait()
        except BaseException:
            connection.close()
            raise
        return connection

    async def __aenter__(self) -> Connection:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    async def send(self, data: bytes) -> None:
        """Send all of it; waits while the peer does not read. Raises GuestError when the connection is broken or closed, ChannelLost."""
        rest = memoryview(data)
        while rest:
            self._check()
            if self._ended or self._sent_all:
                raise GuestError("this side of the connection is closed")
            if not self._may_send:
                await self._wait()
                continue
            chunk = rest[: min(MAX_PAYLOAD, self._may_send)]
            self._may_send -= len(chunk)
            rest = rest[len(chunk) :]
            self._channel.write(FrameType.DATA, self._stream, chunk, STDIN)
            await self._channel.drain()

    def send_eof(self) -> None:
        """Close this side alone; the peer may go on talking."""
        if not self._ended and not self._sent_all:
            self._sent_all = True
            self._channel.write(FrameType.EOF, self._stream, channel=STDIN)

    async def receive(self, limit: int = READ_SIZE) -> bytes:
        """What has come, at least one byte and at most ``limit``; b"" when the peer has closed its side.

        Raises GuestError when the connection broke before that, ChannelLost.
        """
        while not self._received and not self._received_all:
            self._check()
            if self._ended:
                return b""
            await self._wait()
        piece = bytes(self._received[:limit])
        del self._received[:limit]
        self._give_credit(len(piece))
        return piece

    def close(self) -> None:
        """Close both sides at once, whatever is under way; nothing when it is closed already."""
        self._end(self._error or GuestError("this connection is closed"))
        self._received.clear()
        self._channel.cancel(self._stream)

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    async def _wait(self) -> None:
        self._moved.clear()
        await self._moved.wait()

    def _give_credit(self, consumed: int) -> None:
        self._owed += consumed
        if self._owed >= CREDIT_STEP and not self._received_all and not self._ended:
            self._channel.write(FrameType.WINDOW, self._stream, u32(self._owed), STDOUT)
            self._may_receive += self._owed
            self._owed = 0

    def _take_frame(self, frame: Frame) -> None:
        if frame.type == FrameType.DATA:
            self._take_data(frame)
        elif frame.type == FrameType.EOF and frame.channel == STDOUT:
            self._received_all = True
        elif frame.type == FrameType.WINDOW and frame.channel == STDIN:
            self._may_send += window_of(frame)
        elif frame.type == FrameType.OPENED:
            self._opened = True
        elif frame.type == FrameType.RESULT:
            self._answered(None)
        elif frame.type == FrameType.ERROR:
            self._answered(decode_refusal(frame.payload))
        self._moved.set()

    def _take_data(self, frame: Frame) -> None:
        if frame.channel != STDOUT or self._received_all or len(frame.payload) > self._may_receive:
            raise GuestError("the guest sent more than it was allowed to")
        self._may_receive -= len(frame.payload)
        self._received += frame.payload

    def _answered(self, error: GuestError | None) -> None:
        self._channel.forget(self._stream)
        self._end(error)

    def _end(self, error: GuestError | None) -> None:
        self._ended, self._error = True, error
        self._moved.set()
