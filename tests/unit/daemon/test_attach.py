from __future__ import annotations

import asyncio
import json

import pytest

from banger.daemon import attach as attach_module
from banger.daemon import forward
from banger.guest.fields import Fields
from banger.guest.frames import MAX_PAYLOAD, STDIN, STDOUT, Frame, FrameType, Operation, encode
from banger.guest.outcome import decode_refusal
from banger.host.sockets import Peer
from banger.model.errors import ChannelLost, GuestError, GuestTimeout
from banger.model.records import VMState
from tests.unit.daemon.harness import FakeForwarded, Running, Wire


async def open_stream(daemon: Running, body: object = None) -> tuple[Wire, FakeForwarded]:
    daemon.machines.add(name="box")
    ticket = (await daemon.call("POST", "/v1/vms/box/exec", body or {"argv": ["cat"]})).json
    wire = await daemon.attach()
    assert await wire.hello(ticket["token"]) == {"ok": True}
    return wire, daemon.machines.the_agent.streams[-1]


def data(payload: bytes, channel: int = STDIN) -> Frame:
    return Frame(FrameType.DATA, 1, payload, channel)


async def test_the_request_reaches_the_guest_as_fields(daemon: Running) -> None:
    body = {"argv": ["sh", "-c", "ls"], "env": {"A": "b=c"}, "cwd": "/tmp", "user": "me", "tty": True, "rows": 50, "columns": 132}
    wire, stream = await open_stream(daemon, body)
    fields = Fields.parse(stream.request)
    assert stream.operation == Operation.EXEC
    assert (fields.texts(16), fields.texts(17), fields.text(18), fields.text(19)) == (("sh", "-c", "ls"), ("A=b=c",), "/tmp", "me")
    assert (fields.u8(20), fields.u32(21), fields.u32(22), fields.u8(23)) == (1, 50, 132, 1)
    await wire.close()


@pytest.mark.parametrize("body", [{"argv": ["x" * 70_000]}, {"argv": ["a\0b"]}, {"env": {"A=B": "c"}}, {"rows": -1}, {"columns": 1 << 40}, {"argv": "ls"}])
async def test_what_cannot_be_run_is_refused_before_a_stream_exists(daemon: Running, body: object) -> None:
    daemon.machines.add(name="box")
    reply = await daemon.call("POST", "/v1/vms/box/exec", body)
    assert reply.status == 400 and reply.error["code"] == "bad_request"


async def test_a_stopped_machine_runs_nothing(daemon: Running) -> None:
    daemon.machines.add(name="box", state=VMState.STOPPED)
    reply = await daemon.call("POST", "/v1/vms/box/exec", {"argv": ["true"]})
    assert reply.status == 409 and reply.error["code"] == "not_running" and "banger vm start" in reply.error["hint"]


async def test_megabytes_both_ways(daemon: Running) -> None:
    wire, stream = await open_stream(daemon)
    pieces = [bytes([number % 251]) * MAX_PAYLOAD for number in range(64)]

    async def upload() -> None:
        for piece in pieces:
            await wire.send(data(piece))
        await wire.send(Frame(FrameType.EOF, 1, b"", STDIN))

    async def answer() -> None:
        """The guest echoes what has come, never more than a window ahead of what was read."""
        sent = 0
        while sent < len(pieces):
            while len(stream.received) <= sent:
                await asyncio.sleep(0)
            stream.on_frame(data(bytes(stream.received[sent].payload), STDOUT))
            sent += 1
            await asyncio.sleep(0)
        stream.on_frame(Frame(FrameType.EOF, 1, b"", STDOUT))
        stream.on_frame(Frame(FrameType.RESULT, 1, b"result"))

    async def download() -> list[Frame]:
        frames = []
        while frame := await wire.frame():
            frames.append(frame)
        return frames

    _, _, frames = await asyncio.gather(upload(), answer(), download())
    assert [bytes(frame.payload) for frame in frames if frame.type == FrameType.DATA] == pieces
    assert [frame.type for frame in frames[-2:]] == [FrameType.EOF, FrameType.RESULT]
    await wire.close()


async def test_a_guest_that_does_not_read_stops_the_client_and_memory_is_bounded(daemon: Running) -> None:
    wire, stream = await open_stream(daemon)
    stream.may_take.clear()
    sent = 0

    async def flood() -> None:
        nonlocal sent
        while sent < 512:
            await wire.send(data(bytes(MAX_PAYLOAD)))
            sent += 1

    flooding = asyncio.create_task(flood())
    before = -1
    while before != sent:
        before = sent
        await asyncio.sleep(0.05)
    assert 0 < sent * MAX_PAYLOAD < 4 * 1024 * 1024 and stream.received == []
    stream.may_take.set()
    await flooding
    while len(stream.received) < 512:
        await asyncio.sleep(0.01)
    await wire.close()


async def test_a_client_that_leaves_cancels(daemon: Running) -> None:
    wire, stream = await open_stream(daemon)
    await wire.send(Frame(FrameType.CONTROL, 1, b"x"))
    await wire.close()
    await stream.cancelled.wait()
    assert (await daemon.call("GET", "/v1/vms")).status == 200


async def test_cancel_ends_the_connection(daemon: Running) -> None:
    wire, stream = await open_stream(daemon)
    await wire.send(Frame(FrameType.CANCEL, 1, b""))
    assert await wire.frame() is None
    assert stream.received[-1].type == FrameType.CANCEL
    await wire.close()


async def test_what_the_client_still_sends_after_the_end_does_not_cost_it_the_output(daemon: Running) -> None:
    wire, stream = await open_stream(daemon)
    stream.on_frame(data(b"last words", STDOUT))
    stream.on_frame(Frame(FrameType.RESULT, 1, b"result"))
    for _ in range(64):
        await wire.send(data(bytes(MAX_PAYLOAD)))
    frames = [await wire.frame(), await wire.frame(), await wire.frame()]
    assert [frame and frame.type for frame in frames] == [FrameType.DATA, FrameType.RESULT, None]
    await wire.close()


async def test_a_lost_channel(daemon: Running) -> None:
    wire, stream = await open_stream(daemon)
    stream.on_lost()
    stream.on_lost()
    frame = await wire.frame()
    assert frame is not None and frame.type == FrameType.ERROR and isinstance(decode_refusal(frame.payload), ChannelLost)
    assert await wire.frame() is None
    await wire.close()


async def test_a_channel_that_is_lost_while_sending(daemon: Running) -> None:
    wire, stream = await open_stream(daemon)
    stream.error = ChannelLost("gone")
    await wire.send(data(b"x"))
    frame = await wire.frame()
    assert frame is not None and isinstance(decode_refusal(frame.payload), ChannelLost)
    await wire.close()


async def test_a_client_that_does_not_read_is_dropped_when_the_guest_ignores_its_credit(daemon: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward, "MAX_UNSENT_TO_CLIENT", 1024 * 1024)
    wire, stream = await open_stream(daemon)
    for _ in range(64):
        stream.on_frame(data(bytes(MAX_PAYLOAD), STDOUT))
    await stream.cancelled.wait()
    await wire.close()


@pytest.mark.parametrize("frame", [Frame(FrameType.OPEN, 1, b""), Frame(FrameType.DATA, 2, b""), Frame(FrameType.DATA, 1, b"", epoch=7), Frame(99, 1, b"")])
async def test_frames_that_a_client_may_not_send(daemon: Running, frame: Frame) -> None:
    wire, stream = await open_stream(daemon)
    await wire.send(frame)
    answer = await wire.frame()
    assert answer is not None and answer.type == FrameType.ERROR
    assert await wire.frame() is None and stream.cancelled.is_set() and stream.received == []
    await wire.close()


# -- the handshake -----------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", [b"\n", b"nope\n", b"[]\n", b'{"token": 1}\n', b'{"token": "x", "y": 1}\n', b"\xff\n", b"x" * 5000])
async def test_bad_first_lines(daemon: Running, line: bytes) -> None:
    wire = await daemon.attach()
    answer = await wire.say(line)
    assert answer["ok"] is False and answer["error"]["code"] == "bad_request"
    assert await wire.frame() is None
    await wire.close()


async def test_wrong_reused_and_expired_tokens(daemon: Running) -> None:
    daemon.machines.add(name="box")
    used, expired = [(await daemon.call("POST", "/v1/vms/box/exec", {})).json["token"] for _ in range(2)]
    first = await daemon.attach()
    assert (await first.hello(used))["ok"] is True
    daemon.context.tokens._expire(expired)
    for token in ("wrong", used, expired):
        wire = await daemon.attach()
        answer = await wire.hello(token)
        assert answer["ok"] is False and answer["error"]["code"] == "unauthorized"
        await wire.close()
    await first.close()


async def test_frames_may_follow_the_token_at_once_and_the_line_may_come_in_pieces(daemon: Running) -> None:
    daemon.machines.add(name="box")
    token = (await daemon.call("POST", "/v1/vms/box/exec", {})).json["token"]
    wire = await daemon.attach()
    raw = json.dumps({"token": token}).encode() + b"\n" + encode(data(b"early"))
    wire.writer.write(raw[:10])
    await asyncio.sleep(0.01)
    assert await wire.say(raw[10:]) == {"ok": True}
    stream = daemon.machines.the_agent.streams[-1]
    while not stream.received:
        await asyncio.sleep(0)
    assert bytes(stream.received[0].payload) == b"early"
    await wire.close()


async def test_a_guest_that_cannot_be_reached_any_more(daemon: Running) -> None:
    daemon.machines.add(name="box")
    token = (await daemon.call("POST", "/v1/vms/box/exec", {})).json["token"]
    daemon.machines.the_agent.refusal = GuestError("too many streams", hint="wait")
    wire = await daemon.attach()
    answer = await wire.hello(token)
    assert answer["ok"] is False and answer["error"]["code"] == "guest_error" and answer["error"]["hint"] == "wait"
    await wire.close()


async def test_a_client_that_says_nothing_is_let_go(daemon: Running) -> None:
    daemon.daemon._attach.handshake_seconds = 0.01
    wire = await daemon.attach()
    assert await wire.frame() is None
    await wire.close()


async def test_another_user_is_refused(daemon: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon.machines.add(name="box")
    token = (await daemon.call("POST", "/v1/vms/box/exec", {})).json["token"]
    monkeypatch.setattr(attach_module, "peer_of", lambda sock: Peer(pid=1, uid=54321, gid=54321))
    wire = await daemon.attach()
    answer = await wire.hello(token)
    assert answer["error"]["code"] == "unauthorized" and "54321" in answer["error"]["message"]
    assert daemon.machines.the_agent.streams == []
    await wire.close()


async def test_stopping_the_daemon_ends_streams_with_a_word(daemon: Running) -> None:
    wire, stream = await open_stream(daemon)
    silent = await daemon.attach()
    await daemon.stop()
    frame = await wire.frame()
    assert frame is not None and "the daemon is stopping" in str(decode_refusal(frame.payload))
    assert await wire.frame() is None and await silent.frame() is None and stream.cancelled.is_set()
    await wire.close()
    await silent.close()


async def test_a_guest_that_does_not_begin_a_command_is_given_up_and_one_that_is_only_silent_is_not(daemon: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward, "OPEN_SECONDS", 0.05)
    wire, stream = await open_stream(daemon)
    stream.on_frame(Frame(FrameType.OPENED, 1, b""))
    opened = await wire.frame()
    assert opened is not None and opened.type == FrameType.OPENED
    ticket = (await daemon.call("POST", "/v1/vms/box/exec", {"argv": ["cat"]})).json
    other = await daemon.attach()
    await other.hello(ticket["token"])
    refused = await other.frame()
    assert refused is not None and refused.type == FrameType.ERROR
    error = decode_refusal(refused.payload)
    assert isinstance(error, GuestTimeout) and "banger vm kill" in error.hint
    assert daemon.machines.the_agent.streams[-1].cancelled.is_set()
    assert not stream.cancelled.is_set()
    await other.close()
    await wire.close()
