"""Connections into the guest, against a scripted guest that is polite, slow or hostile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from banger.guest.agent import Agent, connect_request
from banger.guest.connection import Connection
from banger.guest.fields import Fields, u32
from banger.guest.frames import INITIAL_WINDOW, MAX_PAYLOAD, FrameType, Operation
from banger.model.errors import BadRequest, ChannelLost, GuestError
from tests.unit.guest.fake_guest import FakeGuest, connected


@asynccontextmanager
async def connection() -> AsyncIterator[tuple[Connection, FakeGuest, int, Agent]]:
    """A connection that the guest has opened, and its stream."""
    async with connected() as (agent, guest):
        call = asyncio.create_task(agent.connect("127.0.0.1", 80))
        stream, request = await guest.opened(Operation.CONNECT)
        assert (request.text(16), request.u32(17)) == ("127.0.0.1", 80)
        guest.send(FrameType.OPENED, stream)
        async with await call as opened:
            yield opened, guest, stream, agent


def test_requests() -> None:
    tcp = Fields.parse(connect_request("::1", 65535))
    assert (tcp.text(16), tcp.u32(17)) == ("::1", 65535)
    assert Fields.parse(connect_request("", 1)).text(16) == ""
    path = Fields.parse(connect_request("/run/docker.sock"))
    assert (path.text(16), path.u32(17, 0)) == ("/run/docker.sock", 0)


@pytest.mark.parametrize(("address", "port"), [("localhost", 80), ("1.2.3", 80), ("127.0.0.1", 0), ("127.0.0.1", -1), ("", 65536), ("/a\0b", 0), ("@x", 1)])
def test_requests_that_make_no_sense(address: str, port: int) -> None:
    with pytest.raises(BadRequest):
        connect_request(address, port)


async def test_both_sides_close_for_themselves() -> None:
    async with connection() as (ours, guest, stream, agent):
        await ours.send(b"question")
        ours.send_eof()
        ours.send_eof()
        assert (await guest.expect(FrameType.DATA)).payload == b"question"
        await guest.expect(FrameType.EOF)
        with pytest.raises(GuestError, match="closed"):
            await ours.send(b"more")
        guest.send(FrameType.DATA, stream, b"answer", 1)
        assert await ours.receive(3) == b"ans"
        assert await ours.receive() == b"wer"
        guest.send(FrameType.EOF, stream, channel=1)
        assert await ours.receive() == b""
        guest.result(stream)
        await agent_is_idle(agent)
        assert await ours.receive() == b""


async def agent_is_idle(agent: Agent) -> None:
    while agent.busy:
        await asyncio.sleep(0.001)


async def test_the_peer_closes_first() -> None:
    async with connection() as (ours, guest, stream, _):
        guest.send(FrameType.EOF, stream, channel=1)
        assert await ours.receive() == b""
        await ours.send(b"still talking")
        assert (await guest.expect(FrameType.DATA)).payload == b"still talking"
    assert (await guest.expect(FrameType.CANCEL)).stream == stream


@pytest.mark.parametrize("code", ["refused", "not_found", "timed_out", "permission", "io"])
async def test_not_connected(code: str) -> None:
    async with connected() as (agent, guest):
        call = asyncio.create_task(agent.connect("/run/x.sock"))
        stream, _ = await guest.opened(Operation.CONNECT)
        guest.error(stream, code, "connect to /run/x.sock: no")
        with pytest.raises(GuestError, match=r"connect to /run/x\.sock: no") as caught:
            await call
        assert caught.value.guest_code == code
        assert not agent.busy


async def test_giving_up_while_it_connects() -> None:
    async with connected() as (agent, guest):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await agent.connect("10.0.0.1", 9)
        stream, _ = await guest.opened(Operation.CONNECT)
        assert (await guest.expect(FrameType.CANCEL)).stream == stream
        assert not agent.busy


async def test_what_came_before_it_broke_is_received() -> None:
    async with connection() as (ours, guest, stream, _):
        guest.send(FrameType.DATA, stream, b"half", 1)
        guest.error(stream, "io", "the connection broke: Connection reset by peer")
        assert await ours.receive() == b"half"
        for _ in range(2):
            with pytest.raises(GuestError, match="reset by peer"):
                await ours.receive()
        with pytest.raises(GuestError, match="reset by peer"):
            await ours.send(b"x")


async def test_sending_keeps_to_credit() -> None:
    content = bytes(range(256)) * 4096
    async with connection() as (ours, guest, stream, _):
        sending = asyncio.create_task(ours.send(content))
        received = bytearray()
        while len(received) < len(content):
            for _ in range(-(-INITIAL_WINDOW // MAX_PAYLOAD)):
                received += (await guest.expect(FrameType.DATA)).payload
            assert len(received) % INITIAL_WINDOW == 0
            assert not sending.done() or len(received) == len(content)
            guest.send(FrameType.WINDOW, stream, u32(INITIAL_WINDOW))
        await sending
        assert bytes(received) == content


async def test_credit_is_given_for_what_was_asked_for() -> None:
    async with connection() as (ours, guest, stream, agent):
        for _ in range(4):
            guest.send(FrameType.DATA, stream, bytes(MAX_PAYLOAD), 1)
        await agent_heard(agent, guest)
        assert len(await ours.receive(INITIAL_WINDOW)) == 4 * MAX_PAYLOAD
        window = await guest.expect(FrameType.WINDOW)
        assert (window.payload, window.channel) == (u32(4 * MAX_PAYLOAD), 1)


async def agent_heard(agent: Agent, guest: FakeGuest) -> None:
    """Everything that the guest has sent was taken."""
    ping = asyncio.create_task(agent.ping())
    guest.send(FrameType.PONG, payload=bytes((await guest.expect(FrameType.PING)).payload))
    await ping


@pytest.mark.parametrize(("kind", "payload", "channel"), [(FrameType.DATA, bytes(MAX_PAYLOAD), 1), (FrameType.DATA, b"x", 2), (FrameType.WINDOW, b"x", 0)])
async def test_a_guest_that_breaks_the_rules(kind: FrameType, payload: bytes, channel: int) -> None:
    async with connection() as (ours, guest, stream, _):
        for _ in range(5):
            guest.send(kind, stream, payload, channel)
        assert (await guest.expect(FrameType.CANCEL)).stream == stream
        with pytest.raises(GuestError):
            await ours.send(b"x")


async def test_data_after_the_end_breaks_the_rules() -> None:
    async with connection() as (ours, guest, stream, _):
        guest.send(FrameType.EOF, stream, channel=1)
        guest.send(FrameType.DATA, stream, b"late", 1)
        await guest.expect(FrameType.CANCEL)
        assert await ours.receive() == b""


async def test_an_end_before_the_beginning() -> None:
    async with connected() as (agent, guest):
        call = asyncio.create_task(agent.connect("127.0.0.1", 80))
        stream, _ = await guest.opened(Operation.CONNECT)
        guest.result(stream)
        with pytest.raises(GuestError, match="before it began"):
            await call


async def test_the_channel_is_lost() -> None:
    async with connection() as (ours, guest, _, _):
        receiving = asyncio.create_task(ours.receive())
        sending = asyncio.create_task(ours.send(bytes(2 * INITIAL_WINDOW)))
        await asyncio.sleep(0)
        guest.writer.transport.abort()
        for waiting in (receiving, sending):
            with pytest.raises(ChannelLost):
                await waiting


async def test_closing_wakes_whoever_waits() -> None:
    async with connection() as (ours, _, _, _):
        receiving = asyncio.create_task(ours.receive())
        await asyncio.sleep(0)
        ours.close()
        ours.close()
        with pytest.raises(GuestError, match="closed"):
            await receiving
