"""What a published port adds to an HTTP request: from this host, against the same request made inside the machine."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Final

from bench.hosts import machine
from bench.samples import Finding, interleaved, median, seconds
from tests.e2e.instance import Instance, wait_until

ROUNDS: Final = 10
REQUESTS: Final = 30
_REQUEST: Final = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"

SERVER: Final = """
import socket, threading
def talk(peer):
    with peer:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while peer.recv(65536):
            peer.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nok")
server = socket.create_server(("127.0.0.1", 80), backlog=256)
while True:
    threading.Thread(target=talk, args=(server.accept()[0],), daemon=True).start()
"""

ASK: Final = """
import json, socket, sys, time
port, requests, kept = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "kept"
def ask(sock):
    sock.sendall(b"GET / HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
    assert sock.recv(4096).endswith(b"ok")
def connect():
    return socket.create_connection(("127.0.0.1", port))
times, sock = [], connect()
for _ in range(requests):
    begun = time.perf_counter()
    if kept:
        ask(sock)
    else:
        with connect() as fresh:
            ask(fresh)
    times.append(time.perf_counter() - begun)
print(json.dumps(sorted(times)[len(times) // 2]))
"""
"""Prints the median of its requests in seconds; the same program on both sides."""


def forward(instance: Instance) -> list[Finding]:
    """A request on a kept connection and on one of its own; and what `vm connect`, which ssh goes through, takes to begin and end."""
    with machine(instance) as name:
        port = _free_port()
        instance.ok("vm", "set", name, "--publish", f"{port}:80")
        with instance.started("vm", "exec", name, "--", "python3", "-c", SERVER, stdin=subprocess.DEVNULL):
            wait_until(lambda: _answers(port), "the server in the machine answers", 60)
            samples = interleaved(
                ROUNDS,
                **{f"{where}_{how}": _measure(instance, name, port, how, inside=where == "inside") for how in ("kept", "fresh") for where in ("inside", "via")},
                connect=lambda: seconds(instance.argv("vm", "connect", name, "80"), instance.environment),
                python=lambda: seconds([sys.executable, "-c", "pass"], instance.environment),
            )
    added = {how: (median(samples[f"via_{how}"]) - median(samples[f"inside_{how}"])) * 1000 for how in ("kept", "fresh")}
    begin = (median(samples["connect"]) - median(samples["python"])) * 1000
    return [
        Finding(what="added to an HTTP request by a published port", value=added["kept"], unit="ms", limit=3, samples=samples),
        Finding(what="the same with a connection for each request", value=added["fresh"], unit="ms", limit=5),
        Finding(what="`vm connect VM PORT` over `python3 -c pass`", value=begin, unit="ms", limit=100),
    ]


def _measure(instance: Instance, name: str, port: int, how: str, *, inside: bool) -> Callable[[], float]:
    def measure() -> float:
        if inside:
            return float(json.loads(instance.ok("vm", "exec", name, "--", "python3", "-c", ASK, "80", str(REQUESTS), how)))
        done = subprocess.run([sys.executable, "-c", ASK, str(port), str(REQUESTS), how], capture_output=True, check=True)
        return float(json.loads(done.stdout))

    return measure


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


def _answers(port: int) -> bool:
    time.sleep(0.2)
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as sock:
            sock.sendall(_REQUEST)
            return sock.recv(4096).endswith(b"ok")
    except OSError:
        return False
