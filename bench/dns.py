"""How many questions the server of names answers, and how soon: a process with an event loop like the daemon's, asked by this one."""

from __future__ import annotations

import asyncio
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Final

from banger.host.bound_ports import bind_pair
from banger.net.dns.face import Face
from banger.net.dns.message import write_name
from banger.net.dns.responder import Responder
from banger.net.dns.zone import Zone
from bench.samples import Finding, interleaved, median
from tests.e2e.instance import Instance

MACHINES: Final = 200
RATE: Final = 2000
"""Questions a second that must be answered soon."""
SO_TIMESTAMPNS: Final = 35
"""socket(7); the socket module has no name for it."""
_ROUND: Final = 20000
_WINDOW: Final = 16
LOOPBACK: Final = IPv4Address("127.0.0.1")


def dns(_: Instance) -> list[Finding]:
    """As fast as it goes with 16 questions under way; then 2,000 a second whether answered or not, for a second at a time, in turns with a bare echo, whose
    samples tell how quiet the machine was."""
    with server("serve") as names, server("echo") as bare:
        rates = [_rush(names) for _ in range(3)]
        samples = interleaved(9, names=lambda: _percentiles(names), echo=lambda: _percentiles(bare))
    p50, p99 = (median([one[at] for one in samples["names"]]) for at in (0, 1))
    shown = {f"{name}_p{part}": [one[at] for one in rounds] for name, rounds in samples.items() for at, part in enumerate((50, 99))}
    return [
        Finding(what="names answered", value=median(rates), unit="/s", limit=RATE, at_least=True, samples={"rates": rates}),
        Finding(what=f"a name at {RATE}/s, p50", value=p50, unit="ms", limit=1),
        Finding(what=f"a name at {RATE}/s, p99 (the median of nine)", value=p99, unit="ms", limit=3, samples=shown),
    ]


def _percentiles(sock: socket.socket) -> tuple[float, float]:
    """p50 and p99 in milliseconds."""
    delays = sorted(_pace(sock))
    return delays[len(delays) // 2] * 1000, delays[len(delays) * 99 // 100] * 1000


def _question(number: int) -> bytes:
    """With EDNS, as resolvers ask: mostly for machines that are there, the fifth for one that is not."""
    name = write_name(f"box-{number % (MACHINES * 5 // 4)}".encode(), b"vm")
    return struct.pack("!6H", number & 0xFFFF, 0x0100, 1, 0, 0, 1) + name + b"\0\1\0\1" + b"\0" + struct.pack("!HHIH", 41, 1232, 0, 0)


def _rush(sock: socket.socket) -> float:
    """Answers a second."""
    sock.settimeout(5)
    begun = time.perf_counter()
    for number in range(_ROUND + _WINDOW):
        if number < _ROUND:
            sock.send(_question(number))
        if number >= _WINDOW:
            sock.recv(4096)
    return _ROUND / (time.perf_counter() - begun)


def _pace(sock: socket.socket) -> list[float]:
    """Seconds from each question to its answer's arrival, which the kernel notes: when this process gets round to reading it is nobody's concern."""
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    sent: list[float] = []
    delays: list[float] = []
    begun = time.time()
    while len(delays) < RATE:
        due = begun + len(sent) / RATE
        if len(sent) < RATE and time.time() >= due:
            sent.append(time.time())
            sock.send(_question(len(sent) - 1))
        elif select.select([sock], [], [], max(0.0, due - time.time()) if len(sent) < RATE else 5)[0]:
            answer, notes, _, _ = sock.recvmsg(4096, 64)
            seconds, nanoseconds = struct.unpack("qq", notes[0][2])
            delays.append(seconds + nanoseconds / 1e9 - sent[int.from_bytes(answer[:2], "big")])
        elif time.time() > due + 5:
            delays += [5.0] * (len(sent) - len(delays))  # never answered
    return delays


@contextmanager
def server(kind: str) -> Iterator[socket.socket]:
    """A socket to a server in a process of its own: ``serve`` or ``echo``."""
    argv = [sys.executable, "-m", "bench.dns", kind]
    with (
        subprocess.Popen(argv, cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, text=True) as process,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
    ):
        assert process.stdout is not None
        try:
            sock.connect(("127.0.0.1", int(process.stdout.readline())))
            yield sock
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def echo() -> None:
    """The least that a server in Python can do."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        print(sock.getsockname()[1], flush=True)
        while True:
            sock.sendto(*sock.recvfrom(4096))


async def serve() -> None:
    """Until SIGTERM; prints the port."""
    zone = Zone(IPv4Network("172.30.0.0/16"))
    zone.replace({f"box-{number}": IPv4Address("172.30.0.2") + number for number in range(MACHINES)})
    sockets = bind_pair(LOOPBACK, 0)

    async def bind() -> tuple[socket.socket, socket.socket]:
        return sockets

    face = Face("bench", bind, Responder(zone), streams_per_source=8)
    await face.open()
    print(sockets[0].getsockname()[1], flush=True)
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()
    await face.close()


if __name__ == "__main__":
    echo() if sys.argv[1] == "echo" else asyncio.run(serve())
