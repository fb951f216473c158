"""The caller's terminal and signals while a command in a machine has them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import struct
import termios
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

_DEFAULT_SIZE: Final = (24, 80)


def window_size(fd: int) -> tuple[int, int]:
    """Rows and columns of the terminal ``fd``; 24 x 80 when it is none or does not know."""
    try:
        rows, columns, _, _ = struct.unpack("HHHH", fcntl.ioctl(fd, termios.TIOCGWINSZ, bytes(8)))
    except OSError:
        return _DEFAULT_SIZE
    return rows or _DEFAULT_SIZE[0], columns or _DEFAULT_SIZE[1]


@contextmanager
def raw_mode(fd: int) -> Iterator[None]:
    """Keys reach the other side as they are typed, Ctrl-C included, and output is not touched (cfmakeraw(3)); undone on the way out."""
    before = termios.tcgetattr(fd)
    raw = termios.tcgetattr(fd)
    raw[0] &= ~(termios.IGNBRK | termios.BRKINT | termios.PARMRK | termios.ISTRIP | termios.INLCR | termios.IGNCR | termios.ICRNL | termios.IXON)
    raw[1] &= ~termios.OPOST
    raw[2] = raw[2] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
    raw[3] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
    raw[6][termios.VMIN], raw[6][termios.VTIME] = 1, 0
    try:
        termios.tcsetattr(fd, termios.TCSADRAIN, raw)
        yield
    finally:
        # The terminal may have been hung up; then there is nothing to restore.
        with contextlib.suppress(termios.error):
            termios.tcsetattr(fd, termios.TCSADRAIN, before)


class SignalPipe:
    """Signals as bytes that poll(2) can wait for, in place of their usual effect. Signals that were ignored stay ignored (nohup).

    Outside the main thread Python delivers no signals, and this one never has any.
    """

    def __init__(self, numbers: Iterable[int]) -> None:
        self._numbers = tuple(numbers)
        self._before: dict[int, object] = {}
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def fileno(self) -> int:
        return self._read

    def take(self) -> bytes:
        """The numbers of the signals that came since the last call."""
        try:
            return os.read(self._read, 512)
        except BlockingIOError:
            return b""

    def __enter__(self) -> SignalPipe:
        if threading.current_thread() is threading.main_thread():
            self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
            for number in self._numbers:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, _noted)
        return self

    def __exit__(self, *_: object) -> None:
        if threading.current_thread() is threading.main_thread():
            for number, handler in self._before.items():
                signal.signal(number, handler if callable(handler) or isinstance(handler, signal.Handlers) else signal.SIG_DFL)
            signal.set_wakeup_fd(self._wakeup)
        os.close(self._read)
        os.close(self._write)


def _noted(_number: int, _frame: FrameType | None) -> None:
    """The wake-up descriptor has it."""
