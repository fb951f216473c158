"""One connection to the guest: frames in and out, the greeting, the epoch and the table of open streams.

Everything that arrives is untrusted. Nothing here grows with what the guest sends: it is passed on at once or dropped, and no answer is
written to it except one CANCEL for a stream that breaks the rules.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
from dataclasses import replace
from typing import Final, Protocol, cast

from ..model.errors import BadRequest, BadVersion, ChannelLost, GuestError, GuestTimeout
from .fields import Fields, pack, u32, u64
from .frames import PROTOCOL_VERSION, Frame, FrameReader, FrameType, encode
from .messages import BOOTED, MAX_REQUEST, Hello, decode_hello

log = logging.getLogger(__name__)

MAX_STREAMS: Final = 256
_READ_SIZE: Final = 128 * 1024
_PAUSE_ABOVE: Final = 256 * 1024
_RESUME_BELOW: Final = 64 * 1024
_STALLED_ABOVE: Final = 4 * 1024 * 1024
"""Unsent bytes that mean that the guest has stopped reading: no further stream is opened."""
_ZEROS: Final = 65536
"""Zero bytes before ATTACH: they fill up any frame that a former host left half written, and so spoil its trailer."""
_ATTACH_INTERVAL: Final = 0.5
_STREAM_TYPES: Final = frozenset({FrameType.OPENED, FrameType.DATA, FrameType.EOF, FrameType.WINDOW, FrameType.RESULT, FrameType.ERROR})


class Stream(Protocol):
    """What the channel knows of a stream."""

    def receive(self, frame: Frame) -> None:
        """Take a frame of a type that the guest may send. Raises GuestError when it breaks the protocol; the stream is cancelled then."""

    def end(self, error: GuestError) -> None:
        """The stream has ended without RESULT or ERROR."""


class Channel(asyncio.BufferedProtocol):
    """A greeted connection to the program in the guest. Made by ``connect``."""

    def __init__(self, nonce: int) -> None:
        self._nonce = nonce
        self._reader = FrameReader()
        self._received = bytearray(_READ_SIZE)
        self._streams: dict[int, Stream] = {}
        self._last_stream = 0
        self._pings: dict[bytes, asyncio.Future[None]] = {}
        self._greeting: asyncio.Future[Hello] = asyncio.get_running_loop().create_future()
        self._hello: Hello | None = None
        self._epoch = 0
        self._writable = asyncio.Event()
        self._writable.set()
        self._booted = asyncio.Event()
        self._closed = asyncio.Event()

    @classmethod
    async def connect(cls, sock: socket.socket, *, deadline: float, attach: bool) -> Channel:
        """Take over a connected stream socket and wait at most ``deadline`` seconds for the guest's HELLO.

        ``attach`` asks for it, as after a restart of the daemon; otherwise nothing is written before it comes by itself at boot.
        Raises GuestTimeout, ChannelLost, BadVersion or GuestError; the socket is closed then.
        """
        nonce = secrets.randbits(63) + 1 if attach else 0
        try:
            _, channel = await asyncio.get_running_loop().create_connection(lambda: cls(nonce), sock=sock)
        except BaseException:
            sock.close()
            raise
        try:
            async with asyncio.timeout(deadline):
                await channel._greet()
        except BaseException as error:
            channel._greeting.cancel()
            channel.abort()
            if isinstance(error, TimeoutError):
                raise GuestTimeout(f"the program in the guest did not say hello within {deadline:g} s") from None
            raise
        return channel

    async def _greet(self) -> None:
        if self._nonce:
            self._transport.write(bytes(_ZEROS))
            self._attach()
            while not (await asyncio.wait({self._greeting}, timeout=_ATTACH_INTERVAL))[0]:
                if not self._transport.get_write_buffer_size():
                    self._attach()
        await self._greeting

    def _attach(self) -> None:
        request = pack((1, u64(self._nonce)), (2, u32(PROTOCOL_VERSION)))
        self._transport.write(encode(Frame(FrameType.ATTACH, 0, request)))

    @property
    def hello(self) -> Hello:
        assert self._hello is not None, "connect() returns greeted channels only"
        return self._hello

    @property
    def closed(self) -> bool:
        return self._closed.is_set() or self._transport.is_closing()

    @property
    def busy(self) -> bool:
        """Streams are open: somebody waits for this guest."""
        return bool(self._streams)

    def reached(self, state: int) -> None:
        """Remember that the guest has come at least as far as ``state``."""
        self._hello = replace(self.hello, state=max(state, self.hello.state))
        if state >= BOOTED:
            self._booted.set()

    async def wait_booted(self) -> None:
        """Return when the guest has booted; raises ChannelLost when the channel ends before."""
        await self._booted.wait()
        if self.hello.state < BOOTED:
            raise _lost()

    async def wait_closed(self) -> None:
        """Return when the channel has ended."""
        await self._closed.wait()

    def abort(self) -> None:
        """End the channel; what is not sent yet is dropped (the next ATTACH copes with half a frame)."""
        self._transport.abort()

    async def close(self) -> None:
        """``abort``, and wait until the socket is closed."""
        self.abort()
        await self._closed.wait()

    async def ping(self) -> None:
        """Return when the guest has answered; raises ChannelLost."""
        self._check_open()
        payload = os.urandom(8)
        pong: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pings[payload] = pong
        try:
            self.write(FrameType.PING, payload=payload)
            await pong
        finally:
            del self._pings[payload]

    def open(self, stream: Stream, operation: int, request: bytes) -> int:
        """Send OPEN and return the id of the new stream, whose frames ``stream`` gets from now on.

        Raises ChannelLost, GuestTimeout when the guest has stopped reading, BadRequest when ``request`` does not fit into a frame.
        """
        self._check_open()
        if len(request) > MAX_REQUEST:
            raise BadRequest(f"the request has {len(request)} bytes, at most {MAX_REQUEST} can be passed to the guest")
        if len(self._streams) >= MAX_STREAMS:
            raise GuestError(f"{MAX_STREAMS} streams to this VM are open", hint="wait until one of the commands in this VM has ended")
        if self._transport.get_write_buffer_size() > _STALLED_ABOVE:
            raise GuestTimeout("the program in the guest has stopped reading", hint="restart the VM")
        number = self._new_stream_id()
        self._streams[number] = stream
        self.write(FrameType.OPEN, number, pack((1, u32(operation))) + request)
        return number

    def forget(self, number: int) -> None:
        """Frames of this stream are dropped from now on."""
        self._streams.pop(number, None)

    def cancel(self, number: int) -> None:
        """Send CANCEL and forget the stream; nothing when it has ended."""
        if self._streams.pop(number, None) is not None:
            self.write(FrameType.CANCEL, number)

    def write(self, kind: int, stream: int = 0, payload: bytes | memoryview = b"", channel: int = 0) -> None:
        """Send a frame of the present epoch; dropped when the channel has ended. Follow bulk data by ``await drain()``."""
        if not self.closed:
            self._transport.write(encode(Frame(kind, stream, payload, channel, self._epoch)))

    async def drain(self) -> None:
        """Wait until the transport can take more, or has ended."""
        await self._writable.wait()

    def _check_open(self) -> None:
        if self.closed:
            raise _lost()

    def _new_stream_id(self) -> int:
        while True:
            self._last_stream = self._last_stream % 0xFFFFFFFF + 1
            if self._last_stream not in self._streams:
                return self._last_stream

    # asyncio calls what follows.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=_PAUSE_ABOVE, low=_RESUME_BELOW)

    def get_buffer(self, sizehint: int) -> bytearray:
        return self._received

    def buffer_updated(self, nbytes: int) -> None:
        for frame in self._reader.feed(memoryview(self._received)[:nbytes]):
            self._receive(frame)

    def eof_received(self) -> None:
        self._transport.abort()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed.set()
        self._writable.set()
        self._booted.set()
        if not self._greeting.done():
            self._greeting.set_exception(_lost(exc))
        for pong in self._pings.values():
            if not pong.done():
                pong.set_exception(_lost(exc))
        self._end_streams(_lost(exc))

    def _end_streams(self, error: GuestError) -> None:
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            stream.end(error)

    def _receive(self, frame: Frame) -> None:
        if frame.type == FrameType.HELLO:
            self._receive_hello(frame)
        elif self._hello is None or frame.epoch != self._epoch:
            return
        elif frame.type in _STREAM_TYPES:
            self._receive_for_stream(frame)
        elif frame.type == FrameType.PONG:
            pong = self._pings.get(bytes(frame.payload))
            if pong is not None and not pong.done():
                pong.set_result(None)
        elif frame.type == FrameType.EVENT:
            self._receive_event(frame)

    def _receive_for_stream(self, frame: Frame) -> None:
        stream = self._streams.get(frame.stream)
        if stream is None:
            return
        try:
            stream.receive(frame)
        except Exception as error:
            if not isinstance(error, GuestError):
                log.exception("cannot handle a frame", extra={"type": frame.type, "stream": frame.stream})
                error = GuestError("cannot handle what the guest sent")
            self.cancel(frame.stream)
            stream.end(error)

    def _receive_hello(self, frame: Frame) -> None:
        try:
            nonce, hello = decode_hello(frame.payload)
        except (BadVersion, GuestError) as error:
            if not self._greeting.done():
                self._greeting.set_exception(error)
            log.warning("bad hello from the guest: %s", error.message)
            return
        if nonce != self._nonce and not (nonce == 0 and self._hello is not None):
            return
        if self._hello is not None and frame.epoch == self._epoch:
            self.reached(hello.state)
            return
        if self._hello is not None:
            log.warning("the program in the guest has started over", extra={"epoch": frame.epoch})
            self._end_streams(_lost())
        self._adopt(hello, frame.epoch)

    def _adopt(self, hello: Hello, epoch: int) -> None:
        self._hello, self._epoch = hello, epoch
        self.reached(hello.state)
        if not self._greeting.done():
            self._greeting.set_result(hello)

    def _receive_event(self, frame: Frame) -> None:
        try:
            name = Fields.parse(frame.payload).text(1, limit=64)
        except GuestError as error:
            log.debug("bad event from the guest: %s", error.message)
            return
        if name == "booted":
            self.reached(BOOTED)


def _lost(cause: Exception | None = None) -> ChannelLost:
    return ChannelLost("the channel to the guest ended" + (f": {cause}" if cause else ""), hint="see `banger vm logs` for what the VM printed last")
