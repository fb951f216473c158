"""A command in a guest whose output is for us: run to its end, within limits, with no stdin and no terminal."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from io import BytesIO
from typing import IO, Final

from ..api.types import Exec, StreamTicket
from ..guest.fields import u32
from ..guest.frames import INITIAL_WINDOW, STDERR, STDOUT, Frame, FrameReader, FrameType, encode
from ..guest.outcome import ExecOutcome, decode_refusal
from ..model.errors import ChannelLost, GuestError, GuestTimeout
from ..workspace.guest import OUTPUT_LIMIT, Output
from .client import Client

_STREAM: Final = 1
_RECEIVE: Final = 256 * 1024
_GRANT_STEP: Final = INITIAL_WINDOW // 4
_STDERR_LIMIT: Final = 64 * 1024
"""Bytes of stderr that are kept: its beginning."""
SILENCE_SECONDS: Final = 600.0
"""How long a command of ours may say nothing."""


def capture(client: Client, ref: str, argv: Sequence[str], *, user: str = "", into: IO[bytes] | None = None, limit: int = OUTPUT_LIMIT) -> Output:
    """Run ``argv`` in the machine ``ref``; its stdout goes to ``into`` if given.

    Raises GuestError when it writes more than ``limit`` bytes, GuestTimeout when it says nothing for SILENCE_SECONDS, ChannelLost.
    """
    ticket: StreamTicket = client.call("vm.exec", {"ref": ref}, Exec(argv=tuple(argv), user=user, stdin=False))
    with client.attach(ticket.token) as sock:
        return _Capture(sock, into or BytesIO(), limit).run()


class _Capture:
    def __init__(self, sock: socket.socket, into: IO[bytes], limit: int) -> None:
        self._sock = sock
        self._into = into
        self._left = limit
        self._stderr = bytearray()
        self._allowed = {STDOUT: INITIAL_WINDOW, STDERR: INITIAL_WINDOW}
        self._outcome: ExecOutcome | None = None

    def run(self) -> Output:
        reader = FrameReader()
        self._sock.settimeout(SILENCE_SECONDS)
        while self._outcome is None:
            for frame in reader.feed(self._receive()):
                self._take(frame)
        stdout = self._into.getvalue() if isinstance(self._into, BytesIO) else b""
        message = self._outcome.message.encode()
        return Output(self._outcome.exit_status, stdout, bytes(self._stderr) + message)

    def _receive(self) -> bytes:
        began = time.monotonic()
        try:
            untrusted = self._sock.recv(_RECEIVE)
        except TimeoutError:
            raise GuestTimeout(f"the guest said nothing for {time.monotonic() - began:.0f} s", hint="look at its console with `banger vm logs`") from None
        except ConnectionResetError:
            untrusted = b""
        if not untrusted:
            raise ChannelLost("the daemon hung up in the middle of a command", hint="see `banger daemon status`; the machine may still be running")
        return untrusted

    def _take(self, frame: Frame) -> None:
        if frame.type == FrameType.DATA and frame.channel in self._allowed:
            self._keep(frame)
        elif frame.type == FrameType.RESULT:
            self._outcome = ExecOutcome.decode(frame.payload)
        elif frame.type == FrameType.ERROR:
            raise decode_refusal(frame.payload)

    def _keep(self, frame: Frame) -> None:
        size = len(frame.payload)
        self._allowed[frame.channel] -= size
        if self._allowed[frame.channel] < 0:
            raise GuestError("the guest sent more output than it was given credit for")
        if frame.channel == STDERR:
            self._stderr += frame.payload[: max(0, _STDERR_LIMIT - len(self._stderr))]
        else:
            self._left -= size
            if self._left < 0:
                raise GuestError("the guest sends more than the limit allows", hint="copy large files with `banger vm cp`")
            self._into.write(frame.payload)
        self._grant(frame.channel)

    def _grant(self, channel: int) -> None:
        used = INITIAL_WINDOW - self._allowed[channel]
        if used >= _GRANT_STEP:
            self._allowed[channel] += used
            with suppress(BrokenPipeError, ConnectionResetError):  # what can still be received says why
                self._sock.sendall(encode(Frame(FrameType.WINDOW, _STREAM, u32(used), channel)))
