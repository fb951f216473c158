"""One stream of content over attach.sock: chunks to the guest, or chunks from it (docs/agent-protocol.md, section 7). Synchronous; memory stays flat."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from ..guest.fields import Fields, u32
from ..guest.frames import INITIAL_WINDOW, MAX_PAYLOAD, STDIN, STDOUT, Frame, FrameReader, FrameType, encode
from ..guest.outcome import decode_refusal
from ..model.errors import ChannelLost

_STREAM: Final = 1
_RECEIVE: Final = 256 * 1024
_GRANT_STEP: Final = INITIAL_WINDOW // 4
_WINDOW_BYTES: Final = 4


def _nothing(_size: int) -> None:
    """Nobody watches."""


def send_content(sock: socket.socket, chunks: Iterable[bytes], on_sent: Callable[[int], None] = _nothing) -> Fields:
    """Send ``chunks`` on channel 0, within credit, then its end; the fields of RESULT.

    ``on_sent`` is told the bytes of every frame. Stops early when the guest answers early. Raises GuestError as the guest refuses, ChannelLost.
    """
    return _Sender(sock, on_sent).run(chunks)


def receive_content(sock: socket.socket) -> Receiver:
    """What comes on channel 1: iterate over it to the end, then look at ``result``."""
    return Receiver(sock)


class _Wire:
    """Frames over a connected socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._reader = FrameReader()
        self.result: Fields | None = None
        """The fields of RESULT, once it has come."""

    def frames(self, *, wait: bool) -> list[Frame]:
        """What has come; with ``wait`` at least a few bytes."""
        try:
            untrusted = self._sock.recv(_RECEIVE, 0 if wait else socket.MSG_DONTWAIT)
        except BlockingIOError:
            return []
        except ConnectionResetError:
            untrusted = b""
        if not untrusted:
            raise ChannelLost("the daemon hung up in the middle of the transfer", hint="see `banger daemon status`; the machine may still be running")
        return self._reader.feed(untrusted)

    def send(self, kind: FrameType, payload: bytes | memoryview = b"", channel: int = 0) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # what can still be received says why
            self._sock.sendall(encode(Frame(kind, _STREAM, payload, channel)))

    def take_end(self, frame: Frame) -> None:
        """Note a RESULT; raise what an ERROR means."""
        if frame.type == FrameType.RESULT:
            self.result = Fields.parse(frame.payload)
        elif frame.type == FrameType.ERROR:
            raise decode_refusal(frame.payload)


class _Sender(_Wire):
    def __init__(self, sock: socket.socket, on_sent: Callable[[int], None]) -> None:
        super().__init__(sock)
        self._on_sent = on_sent
        self._credit = INITIAL_WINDOW
        self._small = bytearray()

    def run(self, chunks: Iterable[bytes]) -> Fields:
        for chunk in chunks:
            self._put(chunk)
            if self.result is not None:
                return self.result
        self._flush()
        if self.result is None:
            self.send(FrameType.EOF, channel=STDIN)
        while self.result is None:
            self._take(wait=True)
        return self.result

    def _put(self, chunk: bytes) -> None:
        """Small chunks share a frame, large ones are cut without being copied."""
        if len(self._small) + len(chunk) <= MAX_PAYLOAD:
            self._small += chunk
            return
        self._flush()
        if len(chunk) <= MAX_PAYLOAD:
            self._small += chunk
        else:
            self._send_data(memoryview(chunk))

    def _flush(self) -> None:
        if self._small:
            ready, self._small = self._small, bytearray()
            self._send_data(memoryview(ready))

    def _send_data(self, rest: memoryview) -> None:
        while rest and self.result is None:
            self._take(wait=not self._credit)
            piece = rest[: min(MAX_PAYLOAD, self._credit)]
            if piece and self.result is None:
                self.send(FrameType.DATA, piece, STDIN)
                self._credit -= len(piece)
                rest = rest[len(piece) :]
                self._on_sent(len(piece))

    def _take(self, *, wait: bool) -> None:
        for frame in self.frames(wait=wait):
            if frame.type == FrameType.WINDOW and frame.channel == STDIN and len(frame.payload) == _WINDOW_BYTES:
                self._credit += int.from_bytes(frame.payload, "little")
            else:
                self.take_end(frame)


class Receiver(_Wire):
    """Bytes from the guest, read from the socket only as they are consumed; credit for them is given back then.

    Iterating raises GuestError as the guest refuses, ChannelLost.
    """

    def __iter__(self) -> Iterator[bytes | memoryview]:
        consumed = 0
        while self.result is None:
            for frame in self.frames(wait=True):
                if frame.type != FrameType.DATA or frame.channel != STDOUT:
                    self.take_end(frame)
                    continue
                yield frame.payload
                consumed += len(frame.payload)
                if consumed >= _GRANT_STEP:
                    self.send(FrameType.WINDOW, u32(consumed), STDOUT)
                    consumed = 0
