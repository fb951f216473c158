"""What systemd passes and wants to be told."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from banger.host.systemd import notify, take_sockets
from banger.model.errors import BadRequest


def test_sockets_for_another_process_are_left_alone() -> None:
    environment = {"LISTEN_PID": str(os.getpid() + 1), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "x", "PATH": "/bin"}
    assert take_sockets(environment) == []
    assert environment == {"PATH": "/bin"}
    assert take_sockets({}) == []


def test_a_number_that_is_none_is_refused() -> None:
    with pytest.raises(BadRequest, match="LISTEN_FDS"):
        take_sockets({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "-1"})


def test_a_passed_socket_is_taken(tmp_path: Path) -> None:
    program = """
import os, sys
os.dup2(int(sys.argv[1]), 3)  # where systemd begins
os.environ["LISTEN_PID"] = str(os.getpid())
from banger.host.systemd import take_sockets
(one,) = take_sockets()
print(one.type.name, one.getsockname(), os.get_inheritable(one.fileno()), "LISTEN_FDS" in os.environ)
"""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        words = [sys.executable, "-c", program, str(listener.fileno())]
        done = subprocess.run(words, env={"LISTEN_FDS": "1"}, pass_fds=[listener.fileno()], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.split() == ["SOCK_SEQPACKET", str(tmp_path / "socket"), "False", "False"]


@pytest.mark.parametrize("abstract", [False, True])
def test_readiness_is_told(tmp_path: Path, abstract: bool) -> None:
    name = f"banger-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name if abstract else name)
        assert notify("READY=1", {"NOTIFY_SOCKET": "@" + name if abstract else name})
        assert manager.recv(100) == b"READY=1"


def test_nobody_wants_to_know() -> None:
    assert not notify("READY=1", {})
    assert not notify("READY=1", {"NOTIFY_SOCKET": "vsock:2:1234"})
