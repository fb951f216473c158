"""The operations and forwarded streams, against a scripted guest that is polite, slow or hostile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from banger.guest.agent import Agent, Configuration, FileToWrite
from banger.guest.fields import Fields, i64, nested, pack, text, u8, u32, u64
from banger.guest.frames import INITIAL_WINDOW, MAX_PAYLOAD, Frame, FrameType, Operation
from banger.model.errors import BadRequest, GuestError
from banger.model.machine import NetworkCard
from tests.unit.guest.fake_guest import FakeGuest, connected


async def receive_upload(guest: FakeGuest, stream: int) -> bytes:
    """Take channel 0 until EOF, giving back credit as the protocol says, and checking that the host keeps to it."""
    content, credit, owed = bytearray(), INITIAL_WINDOW, 0
    while (frame := await guest.frame()).type != FrameType.EOF:
        assert (frame.type, frame.stream, frame.channel) == (FrameType.DATA, stream, 0)
        content += frame.payload
        credit -= len(frame.payload)
        owed += len(frame.payload)
        assert credit >= 0
        if owed >= INITIAL_WINDOW // 4:
            guest.send(FrameType.WINDOW, stream, u32(owed))
            credit, owed = credit + owed, 0
    return bytes(content)


CARD = NetworkCard(mac="52:54:00:00:00:01", address="10.0.2.15", prefix=24, gateway="10.0.2.2", nameservers=("10.0.2.3", "1.1.1.1"), socket=None)


async def test_configure() -> None:
    big = FileToWrite(path="/etc/big", content=bytes(range(256)) * 4096, mode=0o600, uid=1, gid=2)
    configuration = Configuration(
        hostname="box", root_mode=1, work_disk=True, card=CARD, files=(big,), time_ns=-5, entropy=b"\1\2", ext4_paths=("/a", "/b"), init="/bin/sh"
    )
    async with connected(state=0) as (agent, guest):
        call = asyncio.create_task(agent.configure(configuration))
        stream, request = await guest.opened(Operation.CONFIGURE)
        assert request.texts(16) == ()
        fields = Fields.parse(await receive_upload(guest, stream))
        guest.result(stream, (16, u64(1234567)), (17, text("/sbin/init")))
        configured = await call
        assert (configured.uptime_us, configured.init, agent.hello.state) == (1234567, "/sbin/init", 2)
    assert (fields.text(16), fields.u8(17), fields.u8(18), fields.i64(22), fields.text(23), fields.text(24)) == ("box", 1, 1, -5, "\1\2", "/bin/sh")
    (network,) = fields.nested(19, at_most=1)
    assert (network.text(1), network.text(2), network.u8(3), network.text(4)) == (CARD.mac, CARD.address, 24, CARD.gateway)
    assert fields.texts(20) == CARD.nameservers
    (file,) = fields.nested(21, at_most=1)
    assert (file.text(1), file.u32(2), file.u32(3), file.u32(4)) == ("/etc/big", 0o600, 1, 2)
    assert file.text(5, limit=1 << 24) == big.content.decode(errors="replace")
    assert fields.texts(25) == ("/a", "/b")


async def test_configure_failure_names_the_step_and_configuration_is_bounded() -> None:
    plain = Configuration(hostname="box", root_mode=2, work_disk=False, card=None, time_ns=0, entropy=b"")
    huge = Configuration(
        hostname="x", root_mode=2, work_disk=False, card=None, time_ns=0, entropy=b"", files=(FileToWrite(path="/x", content=bytes(16 << 20)),)
    )
    async with connected(state=0) as (agent, guest):
        call = asyncio.create_task(agent.configure(plain))
        stream, _ = await guest.opened(Operation.CONFIGURE)
        fields = Fields.parse(await receive_upload(guest, stream))
        assert (fields.nested(19, at_most=0), fields.texts(20), fields.texts(24)) == ((), (), ())
        guest.error(stream, "configure_failed", "mount base: No such device")
        with pytest.raises(GuestError, match="mount base: No such device") as caught:
            await call
        assert (caught.value.guest_code, agent.hello.state) == ("configure_failed", 0)
        with pytest.raises(BadRequest, match="at most"):
            await agent.configure(huge)


async def test_write_file_keeps_to_its_credit() -> None:
    content = bytes(range(256)) * 8192
    async with connected() as (agent, guest):
        call = asyncio.create_task(agent.write_file(FileToWrite(path="/root/a", content=content, mode=0o600, uid=3, gid=4), parents=True))
        stream, request = await guest.opened(Operation.WRITE)
        assert (request.text(16), request.u32(17), request.u32(18), request.u32(19), request.u8(20)) == ("/root/a", 0o600, 3, 4, 1)
        assert await receive_upload(guest, stream) == content
        guest.result(stream, (16, u64(len(content))))
        await call


async def test_an_upload_stops_when_the_guest_refuses_in_the_middle() -> None:
    async with connected() as (agent, guest):
        call = asyncio.create_task(agent.write_file(FileToWrite(path="/full", content=bytes(4 * INITIAL_WINDOW))))
        stream, _ = await guest.opened(Operation.WRITE)
        for _ in range(5):
            await guest.expect(FrameType.DATA)
        guest.error(stream, "no_space", "/full: No space left on device")
        with pytest.raises(GuestError, match="No space left") as caught:
            await call
        assert caught.value.hint
        sync = asyncio.create_task(agent.sync())
        stream, _ = await guest.opened(Operation.SYNC)
        guest.result(stream)
        await sync


async def test_a_cancelled_call_is_cancelled_in_the_guest() -> None:
    async with connected() as (agent, guest):
        call = asyncio.create_task(agent.write_file(FileToWrite(path="/x", content=bytes(2 * INITIAL_WINDOW))))
        stream, _ = await guest.opened(Operation.WRITE)
        for _ in range(5):
            await guest.expect(FrameType.DATA)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert (await guest.expect(FrameType.CANCEL)).stream == stream


async def test_read_file_gives_credit_back() -> None:
    content = bytes(range(256)) * 6000
    async with connected() as (agent, guest):
        call = asyncio.create_task(agent.read_file("/etc/passwd", limit=len(content)))
        stream, request = await guest.opened(Operation.READ)
        assert request.text(16) == "/etc/passwd"
        credit = INITIAL_WINDOW
        for start in range(0, len(content), 60000):
            chunk = content[start : start + 60000]
            while credit < len(chunk):
                window = await guest.expect(FrameType.WINDOW)
                assert window.channel == 1
                credit += int.from_bytes(window.payload, "little")
            guest.send(FrameType.DATA, stream, chunk, 1)
            credit -= len(chunk)
        guest.send(FrameType.EOF, stream, b"", 1)
        guest.result(stream, (16, u64(len(content))), (17, u32(0o644)), (18, u32(0)), (19, u32(0)))
        assert await call == content


async def flood(guest: FakeGuest, stream: int) -> None:
    """More than the window, in one go."""
    for _ in range(INITIAL_WINDOW // MAX_PAYLOAD + 1):
        guest.send(FrameType.DATA, stream, bytes(MAX_PAYLOAD), 2)


async def oversize(guest: FakeGuest, stream: int) -> None:
    guest.send(FrameType.DATA, stream, bytes(101), 1)


async def bad_window(guest: FakeGuest, stream: int) -> None:
    guest.send(FrameType.WINDOW, stream, b"abc", 0)


async def bad_result(guest: FakeGuest, stream: int) -> None:
    guest.send(FrameType.RESULT, stream, b"\xff\xff\xff", 0)


@pytest.mark.parametrize(
    ("attack", "words"), [(flood, "more than it was allowed"), (oversize, "longer than the 100 bytes"), (bad_window, "malformed"), (bad_result, "malformed")]
)
async def test_a_call_that_breaks_the_rules_is_cancelled(attack: Callable[[FakeGuest, int], Awaitable[None]], words: str) -> None:
    async with connected() as (agent, guest):
        call = asyncio.create_task(agent.read_file("/x", limit=100))
        stream, _ = await guest.opened(Operation.READ)
        await attack(guest, stream)
        with pytest.raises(GuestError, match=words):
            await call
        assert (await guest.expect(FrameType.CANCEL)).stream == stream
        await still_works(agent, guest)


async def still_works(agent: Agent, guest: FakeGuest) -> None:
    sync = asyncio.create_task(agent.sync())
    stream, _ = await guest.opened(Operation.SYNC)
    guest.result(stream)
    await sync


async def test_small_calls() -> None:
    async with connected() as (agent, guest):
        listeners = asyncio.create_task(agent.listeners())
        stream, _ = await guest.opened(Operation.LISTENERS)
        guest.result(stream, (16, nested((1, text("tcp")), (2, text("0.0.0.0")), (3, u32(80)))))
        assert [(one.port, one.process) for one in await listeners] == [(80, "")]

        clock = asyncio.create_task(agent.time(set_ns=7))
        stream, request = await guest.opened(Operation.TIME)
        assert request.i64(16) == 7
        guest.result(stream, (16, i64(8)), (17, u64(9)))
        assert ((await clock).now_ns, (await clock).uptime_us) == (8, 9)

        stats = asyncio.create_task(agent.stats())
        stream, _ = await guest.opened(Operation.STATS)
        guest.result(stream, (16, u64(1)), (17, u64(2)), (18, u64(3)), (19, u32(10)), (21, u32(4)))
        assert (await stats).load == 0.01

        down = asyncio.create_task(agent.shutdown(1))
        stream, request = await guest.opened(Operation.SHUTDOWN)
        assert request.u8(16) == 1
        guest.result(stream)
        guest.writer.close()
        await down


async def test_calls_run_side_by_side() -> None:
    async with connected() as (agent, guest):
        calls = [asyncio.create_task(agent.time()) for _ in range(20)]
        streams = [(await guest.opened(Operation.TIME))[0] for _ in calls]
        assert len(set(streams)) == 20
        for stream in reversed(streams):
            guest.result(stream, (16, i64(stream)), (17, u64(0)))
        assert sorted(answer.now_ns for answer in await asyncio.gather(*calls)) == sorted(streams)


class Client:
    """Records what a forwarded stream delivers."""

    def __init__(self) -> None:
        self.frames: asyncio.Queue[Frame] = asyncio.Queue()
        self.lost = 0

    def on_lost(self) -> None:
        self.lost += 1


async def test_forwarded_frames_move_both_ways() -> None:
    async with connected() as (agent, guest):
        client = Client()
        stream = agent.forward(Operation.EXEC, pack((16, text("cat"))), client.frames.put_nowait, client.on_lost)
        number, request = await guest.opened(Operation.EXEC)
        assert request.texts(16) == ("cat",)
        for kind, payload, channel in [(FrameType.DATA, b"in", 0), (FrameType.WINDOW, u32(9), 1), (FrameType.CONTROL, b"?", 0), (FrameType.EOF, b"", 0)]:
            await stream.send(Frame(kind, 1, payload, channel))
            assert await guest.frame() == Frame(kind, number, payload, channel, 1)
        sent = [(FrameType.OPENED, b"", 0), (FrameType.DATA, b"out", 1), (FrameType.DATA, b"err", 2), (FrameType.WINDOW, u32(2), 0), (FrameType.EOF, b"", 1)]
        for kind, payload, channel in [*sent, (FrameType.RESULT, pack((16, u8(0)), (17, u32(3))), 0)]:
            guest.send(kind, number, payload, channel)
            assert await client.frames.get() == Frame(kind, 1, payload, channel, 0)
        guest.send(FrameType.DATA, number, b"too late", 1)
        await stream.send(Frame(FrameType.DATA, 1, b"too late"))
        stream.cancel()
        await still_works(agent, guest)
        assert client.frames.empty()
    assert client.lost == 0


async def test_cancel_is_sent_once_and_ends_the_callbacks() -> None:
    async with connected() as (agent, guest):
        client = Client()
        stream = agent.forward(Operation.EXEC, b"", client.frames.put_nowait, client.on_lost)
        number, _ = await guest.opened(Operation.EXEC)
        await stream.send(Frame(FrameType.CANCEL, 1, b""))
        stream.cancel()
        assert (await guest.expect(FrameType.CANCEL)).stream == number
        guest.send(FrameType.DATA, number, b"x", 1)
        await still_works(agent, guest)
        assert client.frames.empty()
    assert client.lost == 0


@pytest.mark.parametrize("frame", [Frame(FrameType.OPEN, 1, b""), Frame(FrameType.ATTACH, 0, b""), Frame(99, 1, b""), Frame(FrameType.WINDOW, 1, b"x", 1)])
async def test_a_client_may_not_send_everything(frame: Frame) -> None:
    async with connected() as (agent, _):
        stream = agent.forward(Operation.EXEC, b"", lambda frame: None, lambda: None)
        with pytest.raises(BadRequest):
            await stream.send(frame)


async def test_a_guest_that_ignores_the_clients_credit_is_stopped() -> None:
    async with connected() as (agent, guest):
        client = Client()
        stream = agent.forward(Operation.EXEC, b"", client.frames.put_nowait, client.on_lost)
        number, _ = await guest.opened(Operation.EXEC)
        await stream.send(Frame(FrameType.WINDOW, 1, u32(MAX_PAYLOAD), 1))
        await guest.expect(FrameType.WINDOW)
        allowed = (INITIAL_WINDOW + MAX_PAYLOAD) // MAX_PAYLOAD
        for _ in range(allowed + 20):
            guest.send(FrameType.DATA, number, bytes(MAX_PAYLOAD), 1)
        for _ in range(allowed):
            assert (await client.frames.get()).type == FrameType.DATA
        last = await client.frames.get()
        assert (last.type, Fields.parse(last.payload).text(1)) == (FrameType.ERROR, "flow_control")
        assert (await guest.expect(FrameType.CANCEL)).stream == number
        await still_works(agent, guest)
        assert client.frames.empty()


async def test_send_waits_while_the_guest_does_not_read() -> None:
    async with connected() as (agent, guest):
        stream = agent.forward(Operation.EXEC, b"", lambda frame: None, lambda: None)
        sent = 0

        async def pour() -> None:
            nonlocal sent
            for _ in range(200):
                await stream.send(Frame(FrameType.DATA, 1, bytes(MAX_PAYLOAD)))
                sent += 1

        pouring = asyncio.create_task(pour())
        for _ in range(300):
            await asyncio.sleep(0)
        assert 1 < sent < 50
        await guest.opened(Operation.EXEC)
        for _ in range(200):
            assert len((await guest.expect(FrameType.DATA)).payload) == MAX_PAYLOAD
        await pouring


async def test_a_callback_that_fails_ends_its_stream_alone(caplog: pytest.LogCaptureFixture) -> None:
    def fail(frame: Frame) -> None:
        raise RuntimeError("bug in the daemon")

    async with connected() as (agent, guest):
        client = Client()
        agent.forward(Operation.EXEC, b"", fail, client.on_lost)
        number, _ = await guest.opened(Operation.EXEC)
        guest.send(FrameType.DATA, number, b"x", 1)
        assert (await guest.expect(FrameType.CANCEL)).stream == number
        await still_works(agent, guest)
        assert client.lost == 1
    assert "cannot handle a frame" in caplog.text
