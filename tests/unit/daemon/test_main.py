"""The real process, with the real composition behind it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from banger.daemon.main import EXIT_ALREADY_RUNNING, EXIT_FAILED, AlreadyRunning, acquire
from banger.host.locks import try_lock
from banger.host.paths import Layout
from tests.unit.daemon.harness import request

DEADLINE = 30.0


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout.from_environment({"BANGER_HOME": str(tmp_path / "home")})


def spawn(layout: Layout, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    env = {**os.environ, "BANGER_HOME": str(layout.state.parent), **environment}
    return subprocess.Popen([sys.executable, "-P", "-m", "banger.daemon.main", *arguments], env=env, stderr=subprocess.PIPE, text=True)


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.01)


def answers(layout: Layout) -> bool:
    with contextlib.suppress(OSError):
        return request(layout.api_socket, "GET", "/v1/daemon").status == 200
    return False


@contextmanager
def served(layout: Layout) -> Iterator[subprocess.Popen[str]]:
    process = spawn(layout)
    try:
        until(lambda: answers(layout))
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=DEADLINE)


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, said = process.communicate(timeout=DEADLINE)
    return process.returncode, said


def log_messages(layout: Layout) -> list[str]:
    return [json.loads(line)["message"] for line in layout.daemon_log.read_text().splitlines()]


def test_a_life(layout: Layout) -> None:
    with served(layout) as process:
        for path in (layout.api_socket, layout.attach_socket):
            assert stat.filemode(path.stat().st_mode) == "srw-------"
        assert request(layout.api_socket, "GET", "/v1/vms").json == []
        assert request(layout.api_socket, "GET", "/v1/daemon").json["pid"] == process.pid
        status, said = ended(spawn(layout))
        assert (
            status == EXIT_ALREADY_RUNNING
            and said.startswith(f"bangerd: bangerd already serves {layout.state} at {layout.api_socket} (")
            and said.count("\n") == 1
        )
        assert answers(layout)
        process.send_signal(signal.SIGTERM)
        assert ended(process) == (0, "")
    assert not layout.api_socket.exists() and not layout.attach_socket.exists()
    lock = try_lock(layout.daemon_lock)
    assert lock is not None
    os.close(lock)
    assert log_messages(layout)[0] == "starting" and log_messages(layout)[-1] == "stopped"


def test_a_daemon_that_listens_elsewhere_is_named_at_once(layout: Layout, tmp_path: Path) -> None:
    elsewhere = replace(layout, runtime=tmp_path / "elsewhere")
    with served(layout), pytest.raises(AlreadyRunning, match=f"at {layout.api_socket}") as caught:
        acquire(elsewhere)
    assert caught.value.hint.endswith(f"BANGER_SOCKET={layout.api_socket}")


def test_of_many_at_once_one_wins(layout: Layout) -> None:
    many = [spawn(layout) for _ in range(4)]
    try:
        until(lambda: sum(one.poll() is None for one in many) == 1 and answers(layout))
        assert sorted(one.returncode for one in many if one.poll() is not None) == [EXIT_ALREADY_RUNNING] * 3
    finally:
        for one in many:
            one.terminate()
            one.communicate(timeout=DEADLINE)


def test_stopped_by_a_call_and_succeeded_at_once(layout: Layout) -> None:
    with served(layout) as process:
        idle = socket.socket(socket.AF_UNIX)
        idle.connect(str(layout.api_socket))
        assert request(layout.api_socket, "DELETE", "/v1/daemon").json["pid"] == process.pid
        successor = spawn(layout)
        try:
            assert ended(process) == (0, "")
            until(lambda: answers(layout))
            assert request(layout.api_socket, "GET", "/v1/daemon").json["pid"] == successor.pid
        finally:
            successor.terminate()
            successor.communicate(timeout=DEADLINE)
            idle.close()


def test_a_killed_daemon_leaves_nothing_that_stops_the_next(layout: Layout) -> None:
    with served(layout) as process:
        process.kill()
        assert ended(process)[0] == -signal.SIGKILL
    assert layout.api_socket.exists()
    with served(layout):
        assert request(layout.api_socket, "GET", "/v1/vms").status == 200


def test_a_runtime_directory_that_others_can_reach_is_refused(layout: Layout) -> None:
    layout.runtime.mkdir(parents=True)
    layout.runtime.chmod(0o755)
    status, said = ended(spawn(layout))
    assert status == EXIT_FAILED and said == f"bangerd: {layout.runtime} has mode 0755, others can reach it (chmod 700 {layout.runtime})\n"
    assert list(layout.runtime.iterdir()) == []


def test_a_runtime_directory_that_is_a_link_or_a_file_is_refused(layout: Layout, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    layout.state.mkdir(parents=True, mode=0o700)
    layout.runtime.symlink_to(tmp_path / "elsewhere")
    status, said = ended(spawn(layout))
    assert status == EXIT_FAILED and "is not a directory" in said and said.count("\n") == 1
    layout.runtime.unlink()
    layout.runtime.write_text("")
    status, said = ended(spawn(layout))
    assert status == EXIT_FAILED and "is not a directory" in said and said.count("\n") == 1


@pytest.mark.root
@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a directory away")
def test_a_runtime_directory_of_another_user_is_refused(layout: Layout) -> None:
    layout.runtime.mkdir(parents=True, mode=0o700)
    os.chown(layout.runtime, 12345, 12345)
    status, said = ended(spawn(layout))
    assert status == EXIT_FAILED and "belongs to uid 12345" in said and said.count("\n") == 1


def test_a_daemon_that_cannot_start_says_why_to_whoever_asked(layout: Layout) -> None:
    layout.state.mkdir(parents=True, mode=0o700)
    layout.database.write_bytes(b"this is no database" * 1000)
    process = spawn(layout)
    until(layout.api_socket.exists)
    reply = request(layout.api_socket, "GET", "/v1/vms")
    assert reply.status == 500 and reply.error["code"] == "store_error"
    status, said = ended(process)
    assert status == EXIT_FAILED and reply.error["message"] in said and said.count("\n") == 1
    assert not layout.api_socket.exists()


def test_words(layout: Layout) -> None:
    status, said = ended(spawn(layout, BANGER_LOG_LEVEL="loud"))
    assert status == 2 and "'loud' is not one of" in said
    process = subprocess.run([sys.executable, "-P", "-m", "banger.daemon.main", "--version"], capture_output=True, text=True, timeout=DEADLINE, check=True)
    assert process.stdout.startswith("bangerd ")
    assert not layout.state.exists()
