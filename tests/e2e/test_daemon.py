"""How the command line and the daemon find and trust each other."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.e2e.instance import Done, Instance, wait_until


def check_told(done: Done, *words: str) -> None:
    assert done.status == 1, done.err
    assert "Traceback" not in done.err
    assert re.search(r"\bop-[0-9a-f]{12}\b", done.err), done.err
    for word in words:
        assert word in done.err, done.err


def test_many_first_callers_start_one_daemon(fresh: Instance) -> None:
    results: list[Done] = []
    threads = [threading.Thread(target=lambda: results.append(fresh.run("vm", "list"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [done.status for done in results] == [0] * 8, [done.err for done in results]
    daemons = [
        pid
        for pid in filter(str.isdigit, os.listdir("/proc"))
        if b"bangerd" in _cmdline(pid) or b"banger.daemon" in _cmdline(pid)
        if str(fresh.home).encode() in _environ(pid)
    ]
    assert len(daemons) == 1


def _cmdline(pid: str) -> bytes:
    try:
        return Path("/proc", pid, "cmdline").read_bytes()
    except OSError:
        return b""


def _environ(pid: str) -> bytes:
    try:
        return Path("/proc", pid, "environ").read_bytes()
    except OSError:
        return b""


def test_sockets_are_private(fresh: Instance) -> None:
    fresh.ok("vm", "list")
    for name in ("bangerd.sock", "attach.sock"):
        assert (fresh.runtime / name).stat().st_mode & 0o777 == 0o600
    assert fresh.runtime.stat().st_mode & 0o777 == 0o700


def test_status_and_stop(fresh: Instance) -> None:
    fresh.ok("vm", "list")
    shown = fresh.json("daemon", "status")
    assert shown["pid"] == fresh.daemon_pid()
    fresh.ok("daemon", "stop")
    wait_until(lambda: fresh.daemon_pid() is None, "the daemon has stopped")
    assert not (fresh.runtime / "bangerd.sock").exists()


def test_a_stopped_daemon_is_not_started_to_be_asked_or_stopped(fresh: Instance) -> None:
    fresh.run("daemon", "status")
    fresh.run("daemon", "stop")
    assert fresh.daemon_pid() is None


def test_a_term_signal_stops_it_in_order(fresh: Instance) -> None:
    fresh.ok("vm", "list")
    pid = fresh.daemon_pid()
    assert pid is not None
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: fresh.daemon_pid() is None, "the daemon has stopped", 10)


def test_the_log_has_one_json_object_per_line_with_the_op_id(fresh: Instance) -> None:
    done = fresh.run("vm", "show", "nobody")
    match = re.search(r"\bop-[0-9a-f]{12}\b", done.err)
    assert match
    entries = [json.loads(line) for line in (fresh.state / "bangerd.log").read_text().splitlines()]
    assert any(entry.get("op_id") == match[0] for entry in entries)


class OtherVersion:
    """Something on the daemon's socket that answers every request as banger 9.9.9 would."""

    def __init__(self, runtime: Path) -> None:
        self.listeners = []
        for name in ("bangerd.sock", "attach.sock"):
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(str(runtime / name))
            (runtime / name).chmod(0o600)
            listener.listen()
            self.listeners.append(listener)
        self.requests: list[bytes] = []
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self.listeners[0].accept()
            except OSError:
                return
            with peer:
                peer.settimeout(10)
                request = b""
                while b"\r\n\r\n" not in request and (chunk := peer.recv(65536)):
                    request += chunk
                if request:
                    self.requests.append(request.split(b"\r\n")[0])
                    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\nBanger-Version: 9.9.9\r\n"
                    peer.sendall(head + b"Banger-Op-Id: op-0123456789ab\r\nConnection: close\r\n\r\n[]")

    def close(self) -> None:
        for listener in self.listeners:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        self.thread.join()


@pytest.fixture
def other_version(fresh: Instance) -> Iterator[OtherVersion]:
    fresh.home.mkdir(mode=0o700)
    fresh.runtime.mkdir(mode=0o700)
    server = OtherVersion(fresh.runtime)
    yield server
    server.close()
    shutil.rmtree(fresh.home)


@pytest.mark.parametrize("words", [("vm", "list"), ("vm", "create", "--no-start"), ("vm", "delete", "x"), ("image", "pull", "debian-bookworm")])
def test_a_daemon_of_another_version(fresh: Instance, other_version: OtherVersion, words: tuple[str, ...]) -> None:
    check_told(fresh.run(*words), "9.9.9", "0.1.0", "banger daemon stop")
    assert not [request for request in other_version.requests if request.startswith((b"POST", b"DELETE /v1/vms"))], "nothing was changed on it"


def test_a_client_of_another_api_version_is_refused(fresh: Instance) -> None:
    fresh.ok("vm", "list")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(str(fresh.runtime / "bangerd.sock"))
        sock.sendall(b"GET /v1/vms HTTP/1.1\r\nHost: banger\r\nBanger-Api-Version: 99\r\nConnection: close\r\n\r\n")
        answer = b""
        while chunk := sock.recv(65536):
            answer += chunk
    assert answer.startswith(b"HTTP/1.1 400")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "bad_version"


def test_a_socket_directory_that_others_can_enter(fresh: Instance) -> None:
    fresh.home.mkdir()
    fresh.runtime.mkdir()
    fresh.runtime.chmod(0o755)
    check_told(fresh.run("vm", "list"), str(fresh.runtime), "0755", f"chmod 700 {fresh.runtime}")
    assert fresh.daemon_pid() is None


@pytest.mark.root
@pytest.mark.skipif(os.getuid() != 0, reason="giving a directory away needs root")
def test_a_socket_directory_of_somebody_else(fresh: Instance) -> None:
    fresh.home.mkdir()
    fresh.runtime.mkdir(mode=0o700)
    os.chown(fresh.runtime, 65534, 65534)
    check_told(fresh.run("vm", "list"), str(fresh.runtime), "65534")
    assert fresh.daemon_pid() is None


def test_a_socket_directory_that_is_a_link(fresh: Instance) -> None:
    fresh.home.mkdir()
    elsewhere = fresh.home / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    fresh.runtime.symlink_to(elsewhere)
    check_told(fresh.run("vm", "list"), str(fresh.runtime))
    assert fresh.daemon_pid() is None


def test_a_database_of_a_newer_banger(fresh: Instance) -> None:
    """A daemon that cannot start says why, through the command that wanted it."""
    fresh.ok("vm", "list")
    fresh.stop_daemon()
    with closing(sqlite3.connect(fresh.state / "banger.db")) as database:
        database.execute("PRAGMA user_version = 9999")
    done = fresh.run("vm", "list")
    assert done.status == 1
    assert "Traceback" not in done.err
    assert "newer" in done.err


def test_a_stale_socket_is_no_daemon(fresh: Instance) -> None:
    fresh.ok("vm", "list")
    pid = fresh.daemon_pid()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: fresh.daemon_pid() is None, "the daemon is dead")
    assert (fresh.runtime / "bangerd.sock").exists()
    assert fresh.ok("vm", "list") is not None
    assert fresh.daemon_pid() not in (None, pid)


def test_a_home_with_a_very_long_name(fresh: Instance) -> None:
    """Longer than a unix socket's path may be."""
    deep = Instance(fresh.home / ("d" * 100) / ("e" * 100))
    try:
        deep.ok("vm", "list")
    finally:
        deep.stop_daemon()
