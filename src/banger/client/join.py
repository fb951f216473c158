"""A connection into a machine joined with two descriptors of ours: bytes both ways, each side's end passed on by itself.

A thread reads ``stdin`` within the guest's credit; this one writes ``stdout`` and gives credit for what is really written, so who does not read stops
his own direction alone.
"""

from __future__ import annotations

import os
import socket
import threading
from collections import deque
from typing import Final

from ..guest.fields import u32
from ..guest.frames import INITIAL_WINDOW, MAX_PAYLOAD, STDIN, STDOUT, Frame, FrameReader, FrameType, encode
from ..guest.outcome import decode_refusal
from ..model.errors import ChannelLost

_STREAM: Final = 1
_RECEIVE: Final = 256 * 1024
_GRANT_STEP: Final = INITIAL_WINDOW // 4
_WINDOW_BYTES: Final = 4


class Joined:
    """One stream of ``vm.connect`` on an attached socket, which stays the caller's to close."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._reader = FrameReader()
        self._credit = INITIAL_WINDOW
        self._moved = threading.Condition()
        self._sending = threading.Lock()
        self._frames: deque[Frame] = deque()
        self._owed = 0

    def wait_open(self) -> None:
        """Return when the machine has connected. Raises GuestError as it was answered (``guest_code``), ChannelLost."""
        while (frame := self._next()).type != FrameType.OPENED:
            if frame.type == FrameType.ERROR:
                raise decode_refusal(frame.payload)

    def run(self, stdin: int, stdout: int) -> None:
        """Move bytes until both sides have ended; ``stdout`` becomes /dev/null when the machine has sent all.

        Raises GuestError when the connection broke, ChannelLost, BrokenPipeError when nobody reads ``stdout`` any more.
        """
        threading.Thread(target=self._send_all, args=(stdin,), daemon=True).start()
        while (frame := self._next()).type != FrameType.RESULT:
            if frame.type == FrameType.DATA and frame.channel == STDOUT:
                self._write(stdout, frame.payload)
            elif frame.type == FrameType.EOF and frame.channel == STDOUT:
                _end(stdout)
            elif frame.type == FrameType.WINDOW and frame.channel == STDIN and len(frame.payload) == _WINDOW_BYTES:
                with self._moved:
                    self._credit += int.from_bytes(frame.payload, "little")
                    self._moved.notify()
            elif frame.type == FrameType.ERROR:
                raise decode_refusal(frame.payload)

    def _next(self) -> Frame:
        while not self._frames:
            try:
                untrusted = self._sock.recv(_RECEIVE)
            except ConnectionResetError:
                untrusted = b""
            if not untrusted:
                raise ChannelLost("the daemon hung up in the middle of the connection", hint="see `banger daemon status`; the machine may still be running")
            self._frames.extend(self._reader.feed(untrusted))
        return self._frames.popleft()

    def _write(self, stdout: int, untrusted_data: bytes | memoryview) -> None:
        rest = memoryview(untrusted_data)
        while rest:
            rest = rest[os.write(stdout, rest) :]
        self._owed += len(untrusted_data)
        if self._owed >= _GRANT_STEP:
            self._send(FrameType.WINDOW, u32(self._owed), STDOUT)
            self._owed = 0

    def _send_all(self, stdin: int) -> None:
        try:
            while piece := os.read(stdin, self._allowed()):
                with self._moved:
                    self._credit -= len(piece)
                self._send(FrameType.DATA, piece, STDIN)
            self._send(FrameType.EOF, b"", STDIN)
        except OSError:
            return  # the receiving side says what has happened

    def _allowed(self) -> int:
        with self._moved:
            self._moved.wait_for(lambda: self._credit > 0)
            return min(self._credit, MAX_PAYLOAD)

    def _send(self, kind: FrameType, payload: bytes, channel: int) -> None:
        frame = encode(Frame(kind, _STREAM, payload, channel))
        with self._sending:
            self._sock.sendall(frame)


def _end(fd: int) -> None:
    """Tell whoever reads it that this was all, and keep its number taken."""
    null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    os.dup2(null, fd)
    os.close(null)
