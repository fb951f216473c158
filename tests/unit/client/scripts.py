"""Guests for the fake daemon: what the far end of an exec does."""

from __future__ import annotations

import threading
from collections.abc import Callable

from banger.guest.fields import Fields, pack, text, u8, u32
from banger.guest.frames import INITIAL_WINDOW, MAX_PAYLOAD, STDERR, STDIN, STDOUT, FrameType
from tests.unit.client.fake_daemon import Guest

Script = Callable[[Guest], None]


def result(guest: Guest, kind: int = 0, number: int = 0, message: str = "") -> None:
    guest.send(FrameType.RESULT, pack((16, u8(kind)), (17, u32(number)), (18, text(message))))


def says(out: bytes = b"", err: bytes = b"", *, kind: int = 0, number: int = 0, message: str = "") -> Script:
    """Write something, end so, and wait until the client has hung up."""

    def script(guest: Guest) -> None:
        guest.send(FrameType.OPENED, pack((1, u32(7))))
        if out:
            guest.send(FrameType.DATA, out, STDOUT)
        if err:
            guest.send(FrameType.DATA, err, STDERR)
        result(guest, kind, number, message)
        while guest.receive() is not None:
            pass

    return script


def cat(guest: Guest) -> None:
    """Send stdin back on stdout, keeping to the credit of both sides, then exit 0."""
    credit = INITIAL_WINDOW
    waiting = bytearray()
    eof = False
    consumed = 0
    while not (eof and not waiting):
        frame = guest.receive()
        if frame is None:
            return
        if frame.type == FrameType.DATA and frame.channel == STDIN:
            waiting += frame.payload
        elif frame.type == FrameType.EOF:
            eof = True
        elif frame.type == FrameType.WINDOW and frame.channel == STDOUT:
            credit += int.from_bytes(frame.payload, "little")
        while waiting and credit:
            piece = bytes(waiting[: min(credit, MAX_PAYLOAD)])
            del waiting[: len(piece)]
            credit -= len(piece)
            consumed += len(piece)
            guest.send(FrameType.DATA, piece, STDOUT)
        if consumed >= INITIAL_WINDOW // 4 and not eof:
            guest.send(FrameType.WINDOW, u32(consumed), STDIN)
            consumed = 0
    result(guest)
    while guest.receive() is not None:
        pass


def pours(size: int, *, channel: int = STDOUT, sent: list[int] | None = None) -> Script:
    """Send ``size`` bytes as fast as the client's credit allows, then exit 0."""

    def script(guest: Guest) -> None:
        credit, left = INITIAL_WINDOW, size
        block = b"x" * MAX_PAYLOAD
        while left:
            while credit and left:
                n = min(credit, left, MAX_PAYLOAD)
                guest.send(FrameType.DATA, block[:n], channel)
                credit, left = credit - n, left - n
                if sent is not None:
                    sent.append(n)
            if left:
                frame = guest.receive()
                if frame is None:
                    return
                if frame.type == FrameType.WINDOW and frame.channel == channel:
                    credit += int.from_bytes(frame.payload, "little")
        result(guest)
        while guest.receive() is not None:
            pass

    return script


class Recorder:
    """Says it is open, notes every CONTROL, and ends when told, or like a process that was killed by the first signal if ``obedient``."""

    def __init__(self, *, obedient: bool = True) -> None:
        self.obedient = obedient
        self.signals: list[int] = []
        self.sizes: list[tuple[int, int]] = []
        self.stdin = bytearray()
        self.opened = threading.Event()
        self.closed = threading.Event()
        self.changed = threading.Condition()

    def __call__(self, guest: Guest) -> None:
        guest.send(FrameType.OPENED, pack((1, u32(7))))
        guest.send(FrameType.DATA, b"ready\r\n", STDOUT)
        self.opened.set()
        try:
            self._listen(guest)
        finally:
            self.closed.set()

    def _listen(self, guest: Guest) -> None:
        while (frame := guest.receive()) is not None:
            with self.changed:
                if frame.type == FrameType.CONTROL:
                    fields = Fields.parse(frame.payload)
                    if number := fields.u32(1, 0):
                        self.signals.append(number)
                        if self.obedient:
                            result(guest, 1, number)
                    else:
                        self.sizes.append((fields.u32(2), fields.u32(3)))
                elif frame.type == FrameType.DATA:
                    self.stdin += frame.payload
                    if b"\x04" in self.stdin or b"quit" in self.stdin:
                        result(guest, 0, 5)
                self.changed.notify_all()

    def wait(self, condition: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, 20)
