"""Forwarded connections through the real guest program to real servers."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest

from banger.access import doors as doors_module
from banger.access import pace
from banger.access.doors import Doors
from banger.access.listening import check_free
from banger.guest.agent import Agent, Connection
from banger.model.errors import AlreadyExists, BadRequest, GuestError
from banger.model.forwards import Forward
from banger.vm.published import connect
from tests.unit.guest.test_real_connection import agent, binary, echo_server, report, root

__all__ = ["agent", "binary", "report", "root"]

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Uses:
    """Counts how often a machine began and ended to be used."""

    def __init__(self) -> None:
        self.begun = self.ended = 0

    def hold(self) -> Callable[[], None]:
        self.begun += 1
        return self._end

    def _end(self) -> None:
        self.ended += 1


@asynccontextmanager
async def opened(dial: Callable[[int], Awaitable[Connection]], guest_port: int, uses: Uses | None = None) -> AsyncIterator[tuple[Doors, int]]:
    """Doors with one open, and its port on this host."""
    doors = Doors(dial, (uses or Uses()).hold)
    (door,) = doors.open((Forward(host_port=0, guest_port=guest_port),))
    await doors.serve()
    try:
        yield doors, door.forward.host_port
    finally:
        doors.close_all()
        await asyncio.sleep(0)


def to(agent: Agent) -> Callable[[int], Awaitable[Connection]]:
    return lambda port: connect(agent, port, ("127.0.0.1", "::1"))


async def ask(port: int, content: bytes) -> bytes:
    """What comes back until the end, after sending ``content`` and the end of our side."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def talk() -> None:
        writer.write(content)
        await writer.drain()
        writer.write_eof()

    talking = asyncio.create_task(talk())
    received = await reader.read(-1)
    await talking
    writer.close()
    return received


async def test_much_in_both_directions_with_the_end_of_each_passed_on(agent: Agent) -> None:
    content = random.Random(5).randbytes(3 << 20)
    async with echo_server() as server, opened(to(agent), server) as (_, port):
        assert await ask(port, content) == content
    await agent.ping()


async def test_a_hundred_at_once_and_none_is_lost(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doors_module, "LINGER_SECONDS", 0.01)
    uses = Uses()
    contents = [b"%d " % number * 3000 for number in range(100)]
    async with echo_server() as server, opened(to(agent), server, uses) as (_, port):
        assert await asyncio.gather(*(ask(port, content) for content in contents)) == contents
        async with asyncio.timeout(10):
            while uses.ended == 0:
                await asyncio.sleep(0.01)
    assert uses.begun == uses.ended and not agent.busy


async def test_more_than_there_are_turns_wait(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doors_module, "AT_ONCE", 3)
    async with echo_server() as server, opened(to(agent), server) as (_, port):
        assert await asyncio.gather(*(ask(port, b"%d" % number) for number in range(30))) == [b"%d" % number for number in range(30)]


async def test_a_server_with_a_short_queue_is_not_flooded(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    """At most as many wait in it as its queue holds: Linux would drop the SYN of the others."""
    monkeypatch.setattr(pace, "PATIENCE_SECONDS", 60)
    dialled = answered = most = 0

    async def dial(port: int) -> Connection:
        nonlocal dialled, most
        dialled += 1
        most = max(most, dialled - answered)
        return await to(agent)(port)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal answered
        await asyncio.sleep(0.002)
        answered += 1
        writer.write(await reader.read(-1))
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0, backlog=5) as server, opened(dial, server.sockets[0].getsockname()[1]) as (_, port):
        assert await asyncio.gather(*(ask(port, b"%d" % number) for number in range(100))) == [b"%d" % number for number in range(100)]
    assert (dialled, most) == (100, pace.WAITING)


async def test_servers_that_keep_silent_do_not_hold_up_others(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "PATIENCE_SECONDS", 0.01)
    everybody = asyncio.Barrier(30)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await everybody.wait()
        writer.write(await reader.read(-1))
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server, opened(to(agent), server.sockets[0].getsockname()[1]) as (_, port):
        async with asyncio.timeout(20):
            assert await asyncio.gather(*(ask(port, b"x") for _ in range(30))) == [b"x"] * 30


async def test_dials_that_fail_make_room(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "PATIENCE_SECONDS", 60)
    async with echo_server() as server:
        pass
    async with opened(to(agent), server) as (_, port):
        for _ in range(3 * pace.WAITING):
            with suppress(ConnectionResetError):
                assert await ask(port, b"") == b""


async def test_who_is_one_too_many_is_told_so(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doors_module, "AT_ONCE", 1)
    monkeypatch.setattr(doors_module, "MAX_WAITING", 1)
    async with echo_server() as server, opened(to(agent), server) as (_, port):
        kept = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        kept[0][1].write(b"x")
        assert await kept[0][0].read(1) == b"x"
        with suppress(ConnectionResetError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            kept.append((reader, writer))
            assert await reader.read(1) == b""
        for _, writer in kept:
            writer.close()


async def test_nobody_listens_in_the_machine(agent: Agent) -> None:
    async with echo_server() as server:
        pass
    async with opened(to(agent), server) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with suppress(ConnectionResetError):
            assert await reader.read(1) == b""
        writer.close()


async def test_a_server_on_ipv6_alone_is_found(agent: Agent) -> None:
    async with await asyncio.start_server(lambda _, writer: writer.close(), "::1", 0) as server:
        async with opened(to(agent), server.sockets[0].getsockname()[1]) as (_, port):
            assert await ask(port, b"") == b""


async def test_a_client_that_goes_away_ends_the_connection_inside(agent: Agent) -> None:
    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        while True:
            try:
                if not await reader.read(100):
                    break
            except ConnectionResetError:
                break
        writer.close()
        ended.set()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server, opened(to(agent), server.sockets[0].getsockname()[1]) as (_, port):
        sock = socket.create_connection(("127.0.0.1", port))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset instead of an end
        await asyncio.sleep(0.05)
        sock.close()
        async with asyncio.timeout(10):
            await ended.wait()


async def test_who_does_not_read_stops_the_sender_and_nobody_else(agent: Agent) -> None:
    sent = 0

    async def flood(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        try:
            while True:
                writer.write(bytes(65536))
                await writer.drain()
                sent += 65536
        except (ConnectionResetError, BrokenPipeError):
            writer.close()

    async with await asyncio.start_server(flood, "127.0.0.1", 0) as server, opened(to(agent), server.sockets[0].getsockname()[1]) as (doors, port):
        lazy = socket.create_connection(("127.0.0.1", port))
        before = -1
        while before != sent:
            before = sent
            await asyncio.sleep(0.3)
        assert 0 < sent < 64 << 20  # the kernel's buffers and a window, no more
        async with echo_server() as other:
            (door,) = doors.open((Forward(host_port=0, guest_port=other),))
            await doors.serve()
            assert await ask(door.forward.host_port, b"quick") == b"quick"
        lazy.close()
        async with asyncio.timeout(10):
            while agent.busy:
                await asyncio.sleep(0.01)


async def test_closing_a_door_ends_what_came_through_it(agent: Agent) -> None:
    async with echo_server() as server, opened(to(agent), server) as (doors, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"x")
        assert await reader.read(1) == b"x"
        doors.close_forwards(doors.forwards)
        assert doors.forwards == ()
        with pytest.raises(OSError):
            if await reader.read(1) == b"":
                raise ConnectionResetError
        writer.close()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)


async def test_who_comes_before_the_machine_is_ready_waits(agent: Agent) -> None:
    async with echo_server() as server:
        doors = Doors(to(agent), Uses().hold)
        (door,) = doors.open((Forward(host_port=0, guest_port=server),))
        asking = asyncio.create_task(ask(door.forward.host_port, b"early"))
        await asyncio.sleep(0.05)
        await doors.serve()
        assert await asking == b"early"
        doors.close_all()


def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(AlreadyExists, match=rf"port 127\.0\.0\.1:{port} of this host is taken"):
            check_free((Forward(host_port=port, guest_port=1),))
    check_free((Forward(host_port=port, guest_port=1),))
    with pytest.raises(BadRequest, match="no address of this host"):
        check_free((Forward(host_port=port, guest_port=1, bind="192.0.2.1"),))


async def test_all_doors_or_none() -> None:
    async def nobody(_: int) -> Connection:
        raise GuestError("nobody")

    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_server(("127.0.0.1", 0)) as other:
        taken, free = server.getsockname()[1], other.getsockname()[1]
        other.close()
        doors = Doors(nobody, Uses().hold)
        with pytest.raises(AlreadyExists):
            doors.open((Forward(host_port=free, guest_port=1), Forward(host_port=taken, guest_port=1)))
        assert doors.forwards == ()
        check_free((Forward(host_port=free, guest_port=1),))
