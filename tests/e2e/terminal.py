"""A program on a pseudo-terminal, for what only a tty shows."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.e2e.instance import Instance


class Terminal:
    """The master's side of a pseudo-terminal whose slave is the program's stdin, stdout, stderr and controlling terminal."""

    def __init__(self, process: subprocess.Popen[bytes], master: int) -> None:
        self.process = process
        self.master = master
        self.seen = ""

    def type(self, text: str) -> None:
        """Press these keys."""
        os.write(self.master, text.encode())

    def resize(self, rows: int, columns: int) -> None:
        """Change the window's size; the kernel tells the foreground process group by SIGWINCH."""
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def expect(self, text: str, timeout: float = 60.0) -> str:
        """Read until ``text`` was printed; returns what came before it. Fails with everything that was read otherwise."""
        deadline = time.monotonic() + timeout
        while text not in self.seen:
            remaining = deadline - time.monotonic()
            assert remaining > 0, f"no {text!r} within {timeout:g} s in:\n{self.seen}"
            if select.select([self.master], [], [], remaining)[0]:
                chunk = self._read()
                assert chunk or text in self.seen, f"the program ended without printing {text!r}:\n{self.seen}"
                self.seen += chunk
        before, _, self.seen = self.seen.partition(text)
        return before

    def _read(self) -> str:
        try:
            return os.read(self.master, 65536).decode(errors="replace")
        except OSError:  # EIO: the last slave was closed
            return ""

    def wait(self, timeout: float = 60.0) -> int:
        """Exit status of the program; what it still prints is kept in ``seen``."""
        deadline = time.monotonic() + timeout
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"still running after {timeout:g} s:\n{self.seen}"
            if select.select([self.master], [], [], 0.1)[0]:
                self.seen += self._read()
        return self.process.returncode

    def is_raw(self) -> bool:
        """Whether the program has put the terminal into raw mode."""
        local_flags = termios.tcgetattr(self.master)[3]
        assert isinstance(local_flags, int)
        return not local_flags & (termios.ICANON | termios.ECHO)


@contextmanager
def on_terminal(instance: Instance, *words: str, rows: int = 24, columns: int = 80) -> Iterator[Terminal]:
    """``banger WORDS`` on a terminal of this size."""
    master, slave = pty.openpty()
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def take_terminal() -> None:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    process = subprocess.Popen(
        instance.argv(*words), stdin=slave, stdout=slave, stderr=slave, env=instance.environment, start_new_session=True, preexec_fn=take_terminal, cwd="/"
    )
    os.close(slave)
    try:
        yield Terminal(process, master)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        os.close(master)
