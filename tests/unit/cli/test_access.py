"""``vm connect``, ``vm ssh``, ``vm forward`` and ``ssh-config`` against a scripted daemon."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from banger.cli import vm_connect
from banger.guest.fields import pack, text
from banger.guest.frames import STDOUT, FrameType
from banger.host import run
from tests.unit.cli.conftest import Shell, record
from tests.unit.client.fake_daemon import Call, FakeDaemon, Guest, Reply


def detail(*, booted: bool = True, alive: bool = True, **more: Any) -> Reply:
    shown = {"record": record(runtime={"booted": booted}), "alive": alive, "pid": 1 if alive else None, "directory": "/d", "console_log": "/c"}
    return Reply(shown | {"vmm_log": "/v", "overlay_allocated_bytes": 0, "work_allocated_bytes": 0} | more)


def refusing(code: str) -> Any:
    def play(guest: Guest) -> None:
        guest.send(FrameType.ERROR, pack((1, text(code)), (2, text(f"connect: {code}"))))

    return play


def greeting(guest: Guest) -> None:
    """Without an EOF, for which the command would close the standard output of this very process."""
    guest.send(FrameType.OPENED)
    guest.send(FrameType.DATA, b"SSH-2.0\r\n", STDOUT)
    guest.send(FrameType.RESULT)


class Booting:
    """A machine whose sshd comes up at the third attempt; ``show`` says that it boots until then."""

    def __init__(self, daemon: FakeDaemon, *, attempts: int, booted_at: int) -> None:
        self.attempts = 0
        self._good, self._booted = attempts, booted_at
        daemon.routes["POST /v1/vms/box/connect"] = self._connect
        daemon.routes["GET /v1/vms/box"] = lambda _: detail(booted=self.attempts >= self._booted)
        daemon.streams |= {"no": refusing("refused"), "yes": greeting}

    def _connect(self, _: Call) -> Reply:
        self.attempts += 1
        return Reply({"token": "yes" if self.attempts >= self._good else "no"})


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vm_connect, "_RETRY_SECONDS", 0.01)


def test_connect(daemon: FakeDaemon, banger: Shell) -> None:
    daemon.routes["POST /v1/vms/box/connect"] = Reply({"token": "yes"})
    daemon.streams["yes"] = greeting
    for word in ("box", "box.vm"):
        result = banger("vm", "connect", word, "22")
        assert (result.status, result.out) == (0, "SSH-2.0\r\n")
    assert daemon.calls[-1].json == {"port": 22, "path": ""}
    banger("vm", "connect", "box", "/run/s")
    assert daemon.calls[-1].json == {"port": 0, "path": "/run/s"}


@pytest.mark.parametrize("target", ["0", "65536", "ssh", "-", "run/s", "٣", "1" * 40])
def test_connect_to_nonsense(banger: Shell, target: str) -> None:
    result = banger("vm", "connect", "box", "--", target)
    assert result.status == 2 and result.out == ""


def test_it_waits_while_the_machine_boots(daemon: FakeDaemon, banger: Shell) -> None:
    boot = Booting(daemon, attempts=4, booted_at=99)
    assert banger("vm", "connect", "box", "22").status == 0
    assert boot.attempts == 4


def test_once_booted_it_tries_once_more_and_says_what_is_missing(daemon: FakeDaemon, banger: Shell) -> None:
    boot = Booting(daemon, attempts=99, booted_at=2)
    result = banger("vm", "connect", "box", "22")
    assert (result.status, boot.attempts) == (1, 3)
    assert "box is up and nothing listens on port 22" in result.err and "sshd" in result.err
    for word in ("banger vm shell box", "banger vm exec box", "banger vm logs box"):
        assert word in result.err
    result = banger("vm", "connect", "box", "80")
    assert result.status == 1 and "box: connect: refused" in result.err and "sshd" not in result.err


def test_waiting_is_bounded(daemon: FakeDaemon, banger: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vm_connect, "BOOT_SECONDS", 0.05)
    Booting(daemon, attempts=10_000, booted_at=10_000)
    result = banger("vm", "connect", "box", "22")
    assert result.status == 1 and "box is not up after 0.05 s" in result.err and "sshd did not start" in result.err and "banger vm logs box" in result.err


def test_other_refusals_are_final(daemon: FakeDaemon, banger: Shell) -> None:
    daemon.routes["POST /v1/vms/box/connect"] = Reply({"token": "no"})
    daemon.streams["no"] = refusing("permission")
    result = banger("vm", "connect", "box", "22")
    assert result.status == 1 and "connect: permission" in result.err and len(daemon.tokens) == 1


SSH = {"config": "/s/my config", "include": 'Include "/s/my config"', "identity": "/s/id", "known_hosts": "/s/kh"}


def test_ssh_becomes_ssh(daemon: FakeDaemon, banger: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    became: list[list[str]] = []
    monkeypatch.setattr(run, "become", became.append)
    daemon.routes |= {"GET /v1/vms/box": detail(), "GET /v1/vms/000": detail(), "GET /v1/ssh": Reply(SSH)}
    banger("vm", "ssh", "000")
    banger("vm", "ssh", "box.vm", "-t", "-u", "me", "--", "sh", "-c", "exit 42")
    assert became == [["ssh", "-F", "/s/my config", "box.vm"], ["ssh", "-F", "/s/my config", "-t", "-l", "me", "box.vm", "sh -c 'exit 42'"]]


def test_ssh_refuses_what_does_not_run(daemon: FakeDaemon, banger: Shell) -> None:
    daemon.routes["GET /v1/vms/box"] = detail(alive=False)
    result = banger("vm", "ssh", "box")
    assert result.status == 125 and "box is not running" in result.err and "banger vm start box" in result.err
    assert banger("vm", "ssh", "box", "uname").status == 125


def test_ssh_config_touches_nothing_unasked(daemon: FakeDaemon, banger: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    daemon.routes["GET /v1/ssh"] = Reply(SSH)
    result = banger("ssh-config")
    assert (result.status, result.out) == (0, 'config   /s/my config\ninclude  Include "/s/my config"\n') and "--install" in result.err
    assert not (tmp_path / "me").exists()
    assert banger("ssh-config", "--install").status == 0
    assert banger("ssh-config", "--json").json["installed"] is True
    content = (tmp_path / "me/.ssh/config").read_text()
    assert content.count('Include "/s/my config"\n') == 1
    assert banger("ssh-config", "--install", "--json").json["changed"] is False
    assert banger("ssh-config", "--uninstall", "--json").json["changed"] is True
    assert (tmp_path / "me/.ssh/config").read_bytes() == b""
    assert "has no block" in banger("ssh-config", "--uninstall").err


def test_a_forward_says_when_it_ended(daemon: FakeDaemon, banger: Shell) -> None:
    daemon.routes["POST /v1/vms/box/forward"] = Reply({"token": "held", "forwards": [{"host_port": 4711, "guest_port": 80, "bind": "127.0.0.1"}]})
    daemon.streams["held"] = lambda _: None  # it ends at once
    result = banger("vm", "forward", "box", "0:80")
    assert (result.status, result.out) == (1, "127.0.0.1:4711 -> box port 80\n") and "forwarding ended" in result.err
    assert daemon.calls[-1].json == {"forwards": [{"host_port": 0, "guest_port": 80, "bind": "127.0.0.1"}]}
    assert banger("vm", "forward", "box", "80").status == 2


def test_published_ports_are_shown(daemon: FakeDaemon, banger: Shell) -> None:
    ports = [{"endpoint": "127.0.0.1:1", "guest_port": 80, "open": True}, {"endpoint": "127.0.0.1:2", "guest_port": 81, "open": False, "error": "taken"}]
    daemon.routes["GET /v1/vms/box"] = detail(published=ports)
    shown = banger("vm", "show", "box").out
    assert "127.0.0.1:1 -> 80\n" in shown and "127.0.0.1:2 -> 81 (not open: taken)\n" in shown
