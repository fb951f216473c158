"""Connections of the daemon and of clients through the real guest program to real servers."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from banger.guest.agent import Agent, connect_request
from banger.guest.frames import STDIN, Frame, FrameType, Operation
from banger.model.errors import GuestError
from tests.unit.guest.test_real_program import binary, greeted, report, root

__all__ = ["binary", "report", "root"]


@pytest.fixture
async def agent(binary: Path, root: Path, report: Path) -> AsyncIterator[Agent]:
    async with greeted(binary, root, report) as (agent, _):
        yield agent


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(1 << 16):
        writer.write(piece)
        await writer.drain()
    writer.close()


@asynccontextmanager
async def echo_server() -> AsyncIterator[int]:
    async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


async def exchange(agent: Agent, port: int, content: bytes) -> bytes:
    """What comes back, while ``content`` is sent."""
    async with await agent.connect("127.0.0.1", port) as connection:

        async def talk() -> None:
            await connection.send(content)
            connection.send_eof()

        talking = asyncio.create_task(talk())
        received = bytearray()
        while piece := await connection.receive():
            received += piece
        await talking
    return bytes(received)


async def test_much_in_both_directions(agent: Agent) -> None:
    content = random.Random(4).randbytes(4 << 20)
    async with echo_server() as port:
        assert await exchange(agent, port, content) == content


async def test_a_hundred_at_once(agent: Agent) -> None:
    contents = [b"%d " % number * 10_000 for number in range(100)]
    async with echo_server() as port:
        assert await asyncio.gather(*(exchange(agent, port, content) for content in contents)) == contents
    await agent.ping()
    assert not agent.busy


async def test_a_unix_socket_below_the_root(agent: Agent, root: Path) -> None:
    with pytest.raises(GuestError) as caught:
        await agent.connect("/tmp/s")
    assert caught.value.guest_code == "not_found"
    async with await asyncio.start_unix_server(echo, root / "tmp/s"), await agent.connect("/tmp/s") as connection:
        await connection.send(b"hello")
        assert await connection.receive() == b"hello"


async def test_nobody_listens(agent: Agent) -> None:
    async with echo_server() as port:
        pass
    with pytest.raises(GuestError, match=f"127.0.0.1 port {port}: Connection refused") as caught:
        await agent.connect("", port)
    assert (caught.value.guest_code, agent.busy) == ("refused", False)


async def test_a_client_is_handed_the_stream(agent: Agent) -> None:
    """As `attach.sock` does it: frames moved unread."""
    frames: asyncio.Queue[Frame] = asyncio.Queue()
    async with echo_server() as port:
        stream = agent.forward(Operation.CONNECT, connect_request("127.0.0.1", port), frames.put_nowait, lambda: None)
        await stream.send(Frame(FrameType.DATA, 1, b"through", STDIN))
        await stream.send(Frame(FrameType.EOF, 1, b"", STDIN))
        seen = [await frames.get()]
        while seen[-1].type not in (FrameType.RESULT, FrameType.ERROR):
            seen.append(await frames.get())
    assert [(frame.type, bytes(frame.payload)) for frame in seen] == [
        (FrameType.OPENED, b""),
        (FrameType.DATA, b"through"),
        (FrameType.EOF, b""),
        (FrameType.RESULT, b""),
    ]
