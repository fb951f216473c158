"""Which listeners in a guest speak HTTP, by the real guest program and real servers on this host."""

from __future__ import annotations

import asyncio
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from banger.guest.agent import Agent
from banger.guest.fields import nested, pack, text, u32
from banger.guest.frames import Operation
from banger.vm import probe
from banger.vm.probe import http_status, may_ask
from tests.unit.guest.test_real_program import GUEST, greeted
from tests.unit.vm.test_autostop import SMALL, Instance

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture(scope="module")
def program() -> Path:
    subprocess.run(["make", "-C", GUEST, "sanitized"], check=True, capture_output=True, timeout=50)
    return GUEST / "build/banger-guest-sanitized"


@pytest.fixture
async def agent(program: Path, tmp_path: Path) -> AsyncIterator[Agent]:
    async with greeted(program, tmp_path, tmp_path / "log") as (agent, _):
        yield agent


@asynccontextmanager
async def server(answer: Answer, host: str = "127.0.0.1") -> AsyncIterator[int]:
    """Port of a server; what it does ends with the test."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.CancelledError):
            await answer(reader, writer)
        writer.close()

    listening = await asyncio.start_server(handle, host, 0)
    async with listening:
        yield listening.sockets[0].getsockname()[1]


def says(line: bytes, *, to: bytes = b"") -> Answer:
    """Answers a request that begins with ``to``; others with 405."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        assert b"\r\nConnection: close\r\n" in request
        writer.write(line if request.startswith(to) else b"HTTP/1.1 405 Method Not Allowed\r\n\r\n")

    return answer


async def speaks_first(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"220 mail.example ESMTP\r\n")
    await reader.read()


async def floods(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"HTTP/1.1" * 8192)
        await writer.drain()


async def is_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def hangs_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 2")


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (says(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"), 200),
        (says(b"HTTP/1.0 404 Not Found\r\n\r\n"), 404),
        (says(b"HTTP/1.1 302\r\n\r\n"), 302),
        (says(b"HTTP/1.1 204 No Content\r\n\r\n", to=b"GET / "), 204),
        (says(b"", to=b"PUT"), 405),
        (says(b"HTTP/1.1 999 What\r\n\r\n"), None),
        (says(b"HTTP/1.1 \x1b[2J OK\r\n\r\n"), None),
        (says(b"\x15\x03\x01\x00\x02\x02"), None),
        (speaks_first, None),
        (floods, None),
        (hangs_up, None),
    ],
)
async def test_statuses(agent: Agent, answer: Answer, status: int | None) -> None:
    async with server(answer) as port:
        assert await http_status(agent, ("0.0.0.0", "::"), port) == status
        assert not agent.busy


async def test_a_silent_server_costs_its_deadline_alone(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "SECONDS", 0.2)
    async with server(is_silent) as silent:
        assert await asyncio.gather(*(http_status(agent, ("127.0.0.1",), silent) for _ in range(20))) == [None] * 20
    assert not agent.busy


async def test_ipv6_and_what_cannot_be_reached(agent: Agent) -> None:
    async with server(says(b"HTTP/1.1 200 OK\r\n\r\n"), "::1") as port:
        assert await http_status(agent, ("::",), port) == 200
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    assert await http_status(agent, ("127.0.0.1",), port) is None
    assert await http_status(agent, ("not an address",), port) is None


def test_who_is_asked() -> None:
    assert may_ask(8080, "python3")
    assert may_ask(80, "")
    assert not may_ask(22, "systemd")
    assert not may_ask(2222, "sshd")
    assert not may_ask(3306, "")


async def test_only_tcp_is_asked_and_not_too_many(tmp_path: Path) -> None:
    def entry(protocol: str, port: int, process: str) -> tuple[int, bytes]:
        return 16, nested((1, text(protocol)), (2, text("0.0.0.0")), (3, u32(port)), (5, text(process)))

    instance = Instance(tmp_path)
    await instance.up()
    await instance.create(SMALL)
    instance.world.answers[Operation.LISTENERS] = pack(
        *(entry("tcp", 8000 + number, "web") for number in range(100)), entry("tcp", 22, "sshd"), entry("udp", 53, "dns")
    )
    try:
        assert len(await instance.machines.ports("box", probe=False)) == 102
        assert instance.world.operations.count(Operation.CONNECT) == 0
        found = await instance.machines.ports("box")
        assert {port.http_status for port in found} == {None}
        assert instance.world.operations.count(Operation.CONNECT) == probe.MAX_PROBES
    finally:
        await instance.machines.close()
        await instance.world.close()
        instance.database.close()
