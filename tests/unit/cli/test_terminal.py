"""``banger`` on a real pseudo-terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.unit.cli.conftest import record
from tests.unit.client.fake_daemon import FakeDaemon, Reply
from tests.unit.client.scripts import Recorder, says

BANGER = [sys.executable, "-m", "banger.cli.main"]
BOX = record()["id"]


class Terminal:
    """A terminal with ``banger`` on it."""

    def __init__(self, words: tuple[str, ...], **environment: str) -> None:
        self.master, self.slave = pty.openpty()
        self.resize(30, 100)
        self.before = termios.tcgetattr(self.slave)
        self.text = b""
        self.process = subprocess.Popen(
            [*BANGER, *words], stdin=self.slave, stdout=self.slave, stderr=self.slave, start_new_session=True, env=os.environ | {"TERM": "vt100"} | environment
        )

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def expect(self, words: bytes) -> None:
        until = time.monotonic() + 20
        while words not in self.text:
            assert time.monotonic() < until, self.text
            if select.select([self.master], [], [], 0.1)[0]:
                self.text += os.read(self.master, 65536)

    def wait(self) -> int:
        """Exit status; goes on reading what the process still has to say."""
        until = time.monotonic() + 20
        while self.process.poll() is None:
            assert time.monotonic() < until, self.text
            if select.select([self.master], [], [], 0.02)[0]:
                self.text += os.read(self.master, 65536)
        while select.select([self.master], [], [], 0)[0]:
            self.text += os.read(self.master, 65536)
        return self.process.returncode

    def is_raw(self) -> bool:
        return not termios.tcgetattr(self.slave)[3] & (termios.ICANON | termios.ECHO | termios.ISIG)


@contextmanager
def terminal(*words: str, **environment: str) -> Iterator[Terminal]:
    one = Terminal(words, **environment)
    try:
        yield one
    finally:
        one.process.kill()
        one.process.wait()
        os.close(one.master)
        os.close(one.slave)


def exec_body(daemon: FakeDaemon, path: str = "/v1/vms/box/exec") -> dict[str, object]:
    (call,) = (call for call in daemon.calls if call.path == path)
    body: dict[str, object] = call.json
    return body


def test_a_shell_gets_keys_sizes_and_gives_the_terminal_back(daemon: FakeDaemon) -> None:
    recorder = daemon.streams["exec"] = Recorder()
    with terminal("vm", "shell", "box") as tty:
        tty.expect(b"ready\r\n")
        assert tty.is_raw()
        body = exec_body(daemon)
        assert (body["argv"], body["tty"], body["rows"], body["columns"]) == ([], True, 30, 100)
        assert body["env"] == {"TERM": "vt100"}
        tty.resize(50, 132)
        os.kill(tty.process.pid, signal.SIGWINCH)  # the kernel signals the foreground group, which a process in a bare session is not
        recorder.wait(lambda: recorder.sizes[-1:] == [(50, 132)])
        tty.type(b"\x03")
        recorder.wait(lambda: b"\x03" in recorder.stdin)
        tty.type(b"\x04")
        assert tty.wait() == 5
        assert termios.tcgetattr(tty.slave) == tty.before
    assert recorder.signals == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_the_terminal_is_given_back_when_the_client_is_ended(daemon: FakeDaemon, number: signal.Signals) -> None:
    recorder = daemon.streams["exec"] = Recorder()
    with terminal("vm", "shell", "box") as tty:
        tty.expect(b"ready\r\n")
        assert tty.is_raw()
        tty.process.send_signal(number)
        assert tty.wait() == 128 + number
        assert termios.tcgetattr(tty.slave) == tty.before
        assert recorder.closed.wait(20)


def test_run_without_a_command_is_a_shell_with_live_stages(daemon: FakeDaemon) -> None:
    daemon.streams["exec"] = Recorder()
    with terminal("vm", "run", "--rm") as tty:
        tty.expect(b"ready\r\n")
        tty.type(b"\x04")
        assert tty.wait() == 5
        assert b"wait_for_guest" in tty.text
        assert b"box ready in" in tty.text
        assert b"\x1b[33m" not in tty.text  # one accent colour
        assert tty.text.index(b"wait_for_guest") < tty.text.index(b"ready\r\n")
        assert termios.tcgetattr(tty.slave) == tty.before
    assert daemon.paths()[-1] == f"DELETE /v1/vms/{BOX}"


def test_no_color(daemon: FakeDaemon) -> None:
    daemon.streams["exec"] = says(b"x")
    with terminal("vm", "run", "--rm", "--", "true", NO_COLOR="1") as tty:
        assert tty.wait() == 0
        assert b"\x1b[36m" not in tty.text
        assert b"\x1b[2m" not in tty.text


def test_a_command_gets_the_terminal_unless_told_otherwise(daemon: FakeDaemon) -> None:
    daemon.streams["exec"] = says(b"done")
    with terminal("vm", "exec", "-T", "box", "--", "true") as tty:
        assert tty.wait() == 0
    body = exec_body(daemon)
    assert (body["tty"], body["stdin"], body["env"]) == (False, False, {})


def test_ctrl_c_without_a_tty_is_forwarded(daemon: FakeDaemon) -> None:
    recorder = daemon.streams["exec"] = Recorder()
    with terminal("vm", "exec", "--no-tty", "--stdin", "box", "--", "cat") as tty:
        tty.expect(b"ready")
        tty.process.send_signal(signal.SIGINT)
        assert tty.wait() == 130
    assert recorder.signals == [signal.SIGINT]


def test_logs_do_not_command_the_terminal(daemon: FakeDaemon) -> None:
    texts = iter(["boot\x1b[31m\r\nok\a\n", ""])
    daemon.routes["GET /v1/vms/box/logs"] = lambda _: Reply({"text": next(texts), "next_offset": 3, "path": "/c"})
    with terminal("vm", "logs", "box") as tty:
        assert tty.wait() == 0
        assert tty.text.decode() == "boot\N{REPLACEMENT CHARACTER}[31m\r\nok\N{REPLACEMENT CHARACTER}\r\n"
