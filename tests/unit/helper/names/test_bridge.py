"""Port 53 of a real bridge in a network namespace, asked from another one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[4]
HOST, GUEST = f"bngdns-h{os.getpid()}", f"bngdns-g{os.getpid()}"

pytestmark = pytest.mark.root


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=20)


def make_bridge() -> None:
    for words in (
        "link add bngdns0 type bridge",
        "address add 172.30.99.1/24 dev bngdns0",
        "link set bngdns0 up",
        "link set v0 master bngdns0",
        "link set v0 up",
    ):
        ip("-n", HOST, *words.split())


@pytest.fixture
def namespaces() -> Iterator[None]:
    ip("netns", "add", HOST)
    ip("netns", "add", GUEST)
    try:
        ip("-n", HOST, "link", "set", "lo", "up")
        ip("-n", HOST, "link", "add", "v0", "type", "veth", "peer", "name", "v1", "netns", GUEST)
        for words in ("address add 172.30.99.2/24 dev v1", "link set v1 up", "link set lo up"):
            ip("-n", GUEST, *words.split())
        yield
    finally:
        ip("netns", "delete", HOST)
        ip("netns", "delete", GUEST)


@contextmanager
def served() -> Iterator[str]:
    """What the server said of itself: whether it is open."""
    argv = ["ip", "netns", "exec", HOST, sys.executable, "-m", "tests.unit.helper.names.serve_guests"]
    with subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            yield server.stdout.readline().strip()
        finally:
            server.stdin.close()
            assert server.wait(20) == 0


def ask(way: str) -> str:
    argv = ["ip", "netns", "exec", GUEST, "dig", "@172.30.99.1", "+tries=3", "+timeout=3", "+short", way, "box.vm"]
    return subprocess.run(argv, capture_output=True, text=True, timeout=30).stdout.strip()


def test_a_guest_asks_before_and_after_the_bridge_was_made_again(namespaces: None) -> None:
    """The server is there first, and keeps its sockets."""
    with served() as opened:
        assert opened == "True"
        for _ in range(2):
            make_bridge()
            assert [ask(way) for way in ("+notcp", "+tcp")] == ["172.30.99.2"] * 2
            ip("-n", HOST, "link", "delete", "bngdns0")


def test_port_53_is_taken(namespaces: None) -> None:
    make_bridge()
    with served() as first, served() as second:
        assert (first, second) == ("True", "False")
