"""Greeting, epochs and the end of a channel, against a scripted guest."""

from __future__ import annotations

import asyncio

import pytest

from banger.guest.agent import Agent
from banger.guest.fields import Fields, pack, text
from banger.guest.frames import Frame, FrameType, encode
from banger.model.errors import BadVersion, ChannelLost, GuestError, GuestTimeout
from tests.unit.guest.fake_guest import connected, fake_guest, hello


async def test_greet_waits_for_hello_and_writes_nothing() -> None:
    async with fake_guest() as (guest, sock):
        greeting = asyncio.create_task(Agent.greet(sock, deadline=10))
        guest.writer.write(b"noise from the console BGR1" + hello()[:30])
        await asyncio.sleep(0.02)
        assert not greeting.done()
        guest.writer.write(bytes(65536) + hello(state=0))
        agent = await greeting
        assert (agent.hello.state, agent.hello.boot_id, agent.hello.kernel, agent.hello.program) == (0, "boot-1", "6.1", "b1")
        await agent.close()
        assert agent.closed
        assert await guest.at_end() == b""


async def test_greet_times_out() -> None:
    async with fake_guest() as (guest, sock):
        with pytest.raises(GuestTimeout):
            await Agent.greet(sock, deadline=0.05)
        assert await guest.at_end() == b""


async def test_greet_fails_when_the_pipe_ends() -> None:
    async with fake_guest() as (guest, sock):
        guest.writer.close()
        with pytest.raises(ChannelLost):
            await Agent.greet(sock, deadline=10)


async def test_greet_can_be_cancelled() -> None:
    async with fake_guest() as (guest, sock):
        greeting = asyncio.create_task(Agent.greet(sock, deadline=10))
        await asyncio.sleep(0.01)
        greeting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await greeting
        assert await guest.at_end() == b""


@pytest.mark.parametrize("attach", [False, True])
async def test_another_protocol_version_is_refused(attach: bool) -> None:
    async with fake_guest() as (guest, sock):
        guest.writer.write(hello(version=2))
        with pytest.raises(BadVersion, match="version 2"):
            await (Agent.attach if attach else Agent.greet)(sock, deadline=10)


async def test_a_malformed_hello_is_refused() -> None:
    async with fake_guest() as (guest, sock):
        guest.writer.write(encode(Frame(FrameType.HELLO, 0, b"\xff\xff\xff", 0, 1)))
        with pytest.raises(GuestError, match="malformed"):
            await Agent.greet(sock, deadline=10)


async def test_attach_sends_zeros_and_repeats_until_its_own_hello() -> None:
    async with fake_guest() as (guest, sock):
        attaching = asyncio.create_task(Agent.attach(sock, deadline=10))
        first = await guest.expect(FrameType.ATTACH)
        assert guest.raw == 65536 + len(encode(first))
        fields = Fields.parse(first.payload)
        nonce = fields.u64(1)
        assert (first.epoch, fields.u32(2)) == (0, 1)
        guest.writer.write(hello(0, epoch=4) + hello(nonce ^ 1, epoch=5) + encode(Frame(FrameType.DATA, 1, b"old", 1, 4)))
        again = await guest.expect(FrameType.ATTACH)
        assert again == first
        guest.writer.write(hello(nonce, epoch=6, state=2) + hello(nonce, epoch=6, state=3))
        agent = await attaching
        guest.epoch = 6
        ping = asyncio.create_task(agent.ping())
        sent = await guest.expect(FrameType.PING)
        assert sent.epoch == 6
        guest.send(FrameType.PONG, payload=bytes(sent.payload))
        assert await ping >= 0
        assert agent.hello.state == 3
        await agent.wait_booted()
        await agent.close()


async def test_attach_times_out() -> None:
    async with fake_guest() as (_, sock):
        with pytest.raises(GuestTimeout):
            await Agent.attach(sock, deadline=0.05)


async def test_frames_of_another_epoch_are_dropped() -> None:
    async with connected() as (agent, guest):
        call = asyncio.create_task(agent.sync())
        stream, _ = await guest.opened(9)
        guest.send(FrameType.ERROR, stream, b"", epoch=2)
        guest.send(FrameType.ERROR, stream, b"", epoch=0)
        guest.send(FrameType.EVENT, 0, pack((1, text("booted"))), epoch=7)
        guest.result(stream)
        await call
        assert agent.hello.state == 2


async def test_frames_that_make_no_sense_are_ignored() -> None:
    async with connected() as (agent, guest):
        for kind in (FrameType.RESULT, FrameType.DATA, FrameType.ATTACH, FrameType.OPEN, FrameType.PING, FrameType.PONG, FrameType.EVENT, FrameType.CANCEL):
            guest.send(kind, 77, b"\xffjunk")
        guest.writer.write(encode(Frame(200, 0, b"future", 9, 1)))
        guest.writer.write(encode(Frame(FrameType.HELLO, 0, b"junk", 0, 1)))
        call = asyncio.create_task(agent.sync())
        stream, _ = await guest.opened(9)
        guest.result(stream)
        await call


async def test_a_guest_that_starts_over_ends_all_streams() -> None:
    async with connected() as (agent, guest):
        call = asyncio.create_task(agent.sync())
        await guest.opened(9)
        guest.writer.write(hello(epoch=2, state=0))
        with pytest.raises(ChannelLost):
            await call
        guest.epoch = 2
        call = asyncio.create_task(agent.sync())
        stream, _ = await guest.opened(9)
        guest.result(stream)
        await call
        assert agent.hello.state == 0


async def test_booted_is_an_event() -> None:
    async with connected() as (agent, guest):
        waiting = asyncio.create_task(agent.wait_booted())
        await asyncio.sleep(0)
        assert not waiting.done()
        guest.send(FrameType.EVENT, 0, pack((1, text("something-new"))))
        guest.send(FrameType.EVENT, 0, pack((1, text("booted"))))
        await waiting
        assert agent.hello.state == 3


async def test_everything_fails_when_the_pipe_ends() -> None:
    async with connected() as (agent, guest):
        lost: list[str] = []
        agent.forward(2, b"", lambda frame: None, lambda: lost.append("lost"))
        waiting = [asyncio.create_task(job) for job in (agent.sync(), agent.ping(), agent.read_file("/x", limit=9), agent.wait_booted())]
        closed = asyncio.create_task(agent.wait_closed())
        await asyncio.sleep(0.01)
        guest.writer.transport.abort()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(result) for result in results] == [ChannelLost] * 4
        await closed
        assert agent.closed
        assert lost == ["lost"]
        with pytest.raises(ChannelLost):
            await agent.sync()
        with pytest.raises(ChannelLost):
            await agent.ping()
        with pytest.raises(ChannelLost):
            agent.forward(2, b"", lambda frame: None, lambda: None)


async def test_streams_are_limited() -> None:
    async with connected() as (agent, _):
        streams = [agent.forward(2, b"", lambda frame: None, lambda: None) for _ in range(256)]
        with pytest.raises(GuestError, match="256 streams"):
            agent.forward(2, b"", lambda frame: None, lambda: None)
        streams[0].cancel()
        agent.forward(2, b"", lambda frame: None, lambda: None)


async def test_a_guest_that_does_not_read_is_not_written_to_without_end() -> None:
    async with connected() as (agent, _):
        with pytest.raises(GuestTimeout, match="stopped reading"):
            for _ in range(1000):
                agent.forward(2, bytes(65000), lambda frame: None, lambda: None).cancel()
