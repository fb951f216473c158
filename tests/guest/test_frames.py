"""Frames, resynchronisation, greeting and epochs."""

from __future__ import annotations

import os
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.guest.wire import (
    ATTACH,
    CREDIT,
    DATA,
    EOF,
    ERROR,
    EXEC,
    HELLO,
    MAGIC,
    OPEN,
    PING,
    PONG,
    TRAILER,
    Frame,
    Guest,
    encode,
    is_alive,
    number,
    pack,
    u32,
    u64,
    wait_until,
)


def attach_frame(nonce: int, version: int = 1, epoch: int = 0) -> bytes:
    return encode(Frame(ATTACH, 0, pack([(1, u64(nonce)), (2, u32(version))]), epoch=epoch))


def frame_with(*, magic: bytes = MAGIC, reserved: int = 0, length: int = 3, flip: int = 0, trailer: bytes = TRAILER) -> bytes:
    """A PING with a sound checksum but one thing wrong."""
    head = struct.pack("<4sBBHIII", magic, PING, 0, reserved, 0, length, 1)
    return head + struct.pack("<I", zlib.crc32(head) ^ flip) + b"bad" + trailer


def test_hello_comes_unasked(make_guest: Callable[..., Guest]) -> None:
    with make_guest() as guest:
        hello = guest.greet()
        assert (hello.epoch, hello.stream) == (1, 0)
        assert (number(hello.fields[1]), number(hello.fields[2]), number(hello.fields[3])) == (0, 1, 2)
        assert hello.fields[4].decode() == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        assert hello.fields[5].decode() == os.uname().release
        assert len(hello.fields[6]) == 16
        assert guest.silence(0.05) == []


def test_ping(guest: Guest) -> None:
    for payload in (b"", b"x", bytes(range(64))):
        guest.ping(payload)
    guest.send(PING, 0, bytes(65))
    guest.ping(b"the one before was too long")


def test_frames_may_arrive_in_pieces(guest: Guest) -> None:
    whole = encode(Frame(PING, 0, b"piece by piece"))
    for cut in range(1, len(whole)):
        guest.sock.sendall(whole[:cut])
        guest.sock.sendall(whole[cut:])
        assert guest.await_frame(PONG).payload == b"piece by piece"
    guest.sock.sendall(whole * 500)
    for _ in range(500):
        assert guest.await_frame(PONG).payload == b"piece by piece"


@pytest.mark.parametrize(
    "unsound",
    [
        frame_with(flip=1),
        frame_with(reserved=1),
        frame_with(reserved=256),
        frame_with(length=65505),
        frame_with(length=0xFFFFFFFF),
        frame_with(trailer=b"\x52\x42\x0a\x5b"),
        frame_with(magic=b"BGR2"),
    ],
    ids=["checksum", "reserved low", "reserved high", "one too long", "far too long", "trailer", "magic"],
)
def test_unsound_frames_are_skipped(guest: Guest, unsound: bytes) -> None:
    guest.sock.sendall(unsound)
    guest.ping()


def test_a_frame_inside_a_broken_one_is_found(guest: Guest) -> None:
    """The search goes on one byte after the place where a frame was believed to begin."""
    inner = encode(Frame(PING, 0, b"inner"))
    head = struct.pack("<4sBBHIII", MAGIC, PING, 0, 0, 0, len(inner), 1)
    guest.sock.sendall(head + struct.pack("<I", zlib.crc32(head)) + inner + b"no trailer")
    assert guest.await_frame(PONG).payload == b"inner"


def test_magic_in_every_position_of_noise(guest: Guest) -> None:
    for noise in (MAGIC, MAGIC[:1], MAGIC[:3], MAGIC * 3, b"B" * 100, b"BG" + MAGIC, MAGIC[:2] + bytes(30), MAGIC + bytes(20)):
        guest.sock.sendall(noise)
        guest.ping(noise[:64])


def test_noise_never_hurts(guest: Guest) -> None:
    dice = random.Random(20261120)
    before = guest.resident()
    for _ in range(150):
        noise = dice.randbytes(dice.randrange(3000))
        good = bytearray(encode(Frame(dice.choice([PING, OPEN, DATA, 77]), dice.randrange(3), dice.randbytes(dice.randrange(200)))))
        if dice.random() < 0.5:
            good[dice.randrange(len(good))] ^= 1 << dice.randrange(8)
        guest.sock.sendall(noise + good[: dice.randrange(len(good) + 1)])
        guest.sock.sendall(bytes(65536))
    guest.attach(1)
    guest.ping()
    assert guest.resident() - before < 32 << 20


def test_half_a_frame_of_any_length_then_attach(guest: Guest) -> None:
    dice = random.Random(7)
    whole = encode(Frame(DATA, 9, dice.randbytes(65504)))
    cuts = [0, 1, 3, 4, 23, 24, 25, 27, 28, len(whole) - 5, len(whole) - 4, len(whole) - 1, *(dice.randrange(len(whole)) for _ in range(12))]
    for nonce, cut in enumerate(cuts, start=1):
        guest.sock.sendall(whole[:cut])
        assert guest.attach(nonce).epoch == nonce + 1
        guest.ping()


def test_attach_begins_an_epoch_and_the_same_nonce_does_not(guest: Guest) -> None:
    assert guest.attach(0xDEADBEEF12345678).epoch == 2
    guest.sock.sendall(attach_frame(0xDEADBEEF12345678) * 3)
    for _ in range(3):
        again = guest.await_frame(HELLO)
        assert (again.epoch, number(again.fields[1])) == (2, 0xDEADBEEF12345678)
    assert guest.attach(5).epoch == 3
    assert guest.attach(0xDEADBEEF12345678).epoch == 4


def test_another_version_is_answered_and_changes_nothing(guest: Guest) -> None:
    stream = guest.start("cat", stdin=True)
    guest.await_frame(17, stream)
    guest.sock.sendall(attach_frame(3, version=2))
    hello = guest.await_frame(HELLO)
    assert (hello.epoch, number(hello.fields[1]), number(hello.fields[2])) == (1, 3, 1)
    guest.data(stream, b"still here")
    guest.send(EOF, stream)
    assert guest.collect(stream).output[1] == b"still here"


def test_malformed_attach_is_ignored(guest: Guest) -> None:
    for payload in (b"\1", pack([(1, b"short"), (2, u32(1))]), pack([(1, u64(1)), (2, b"")])):
        guest.send(ATTACH, 0, payload, epoch=0)
    guest.sock.sendall(attach_frame(9, epoch=1))
    guest.ping()
    assert guest.spare == []


def test_frames_of_another_epoch_are_dropped(guest: Guest) -> None:
    guest.attach(1)
    for epoch in (0, 1, 3, 0xFFFFFFFF):
        guest.send(PING, 0, b"old", epoch=epoch)
        guest.send(OPEN, 4, pack([(1, u32(6))]), epoch=epoch)
    guest.ping(b"new")
    assert guest.spare == []


def test_a_new_epoch_ends_all_streams_silently(guest: Guest) -> None:
    talker = guest.start("sh", "-c", "while :; do echo talk; done")
    sleeper = guest.start("sleep", "1000")
    pids = [number(guest.await_frame(17, stream).fields[1]) for stream in (talker, sleeper)]
    half = guest.open(4, (16, b"/half"))
    guest.data(half, b"half a file")
    guest.ping()
    names = [name for name in os.listdir(guest.log.parent / "root") if name.startswith(".banger")]
    assert len(names) == 1
    assert guest.attach(1).epoch == 2
    assert all(frame.epoch == 2 for frame in guest.silence(0.1))
    for pid in pids:
        wait_until(lambda pid=pid: not is_alive(pid))
    assert os.listdir(guest.log.parent / "root") == []
    assert guest.execute("echo", "fresh").output[1] == b"fresh\n"
    guest.await_no_children()


def test_hello_follows_zeros_that_end_half_a_frame(guest: Guest) -> None:
    """What the host has half of must not swallow the HELLO."""
    guest.stingy.add(1)
    assert guest.start("cat", "/dev/zero") == 1
    guest.sock.recv(100)
    guest.sock.sendall(bytes(65536) + attach_frame(4))
    stale, guest.buffer = b"", bytearray()
    while encode(Frame(HELLO, 0, epoch=2))[:8] not in stale:
        stale += guest.sock.recv(1 << 20)
    assert bytes(65536) in stale[: stale.index(encode(Frame(HELLO, 0))[:8])]


def test_unknown_types_and_streams_are_ignored(guest: Guest) -> None:
    for type in (0, 6, 15, 18, 19, 20, 21, 22, 23, 24, 25, 255):
        guest.send(type, 5, b"abc")
    guest.send(OPEN, 0, pack([(1, u32(EXEC))]))
    guest.ping()
    assert guest.spare == []


def test_broken_requests_get_bad_request(guest: Guest) -> None:
    for payload in (b"", b"\1\0", pack([(1, b"\2")]), pack([(1, u32(0))]), pack([(1, u32(99))]), pack([(1, u32(2))]) + b"x", b"\1\0\xff\xff\xff\xff"):
        stream, guest.next_stream = guest.next_stream, guest.next_stream + 1
        guest.send(OPEN, stream, payload)
        assert guest.collect(stream).code == "bad_request"


def test_a_stream_id_in_use_is_refused(guest: Guest) -> None:
    stream = guest.start("sleep", "1000")
    pid = number(guest.await_frame(17, stream).fields[1])
    guest.send(OPEN, stream, pack([(1, u32(6))]))
    assert guest.collect(stream).code == "bad_request"
    wait_until(lambda: not is_alive(pid))


def test_random_fields_never_hurt(guest: Guest) -> None:
    dice = random.Random(99)
    tags = [1, 2, 3, *range(16, 27), 999]
    for i in range(400):
        fields = [(1, u32(dice.choice([1, 3, 4, 5, 6, 8, 9, 77])))]
        fields += [(dice.choice(tags), dice.randbytes(dice.choice([0, 1, 4, 8, dice.randrange(300)]))) for _ in range(dice.randrange(5))]
        payload = bytearray(pack(fields))
        if dice.random() < 0.3:
            payload[dice.choice([*range(6), *range(10, len(payload))])] ^= 1 << dice.randrange(8)  # the operation stays: it must not become shutdown
        stream = 1000 + i
        guest.send(OPEN, stream, bytes(payload))
        guest.send(dice.choice([DATA, EOF, 20, 21]), stream, dice.randbytes(dice.randrange(20)), dice.choice([0, 0, 0, 1, 2, 9]))
        guest.send(24, stream)
    guest.ping()
    guest.await_no_children()
    assert guest.execute("true").status == (0, 0)


def test_output_queue_stays_bounded(guest: Guest) -> None:
    """A host that asks and asks but never reads is not served for ever."""
    before = guest.resident()
    guest.sock.settimeout(0.3)
    asked = 0
    with pytest.raises(TimeoutError):
        while True:
            guest.sock.sendall(encode(Frame(PING, 0, bytes(64))) * 100)
            asked += 100
    assert asked * 92 < 16 << 20
    assert guest.resident() - before < 16 << 20
    guest.sock.settimeout(20)
    assert {frame.type for frame in guest.silence()} == {PONG}
    guest.attach(2)
    guest.ping()


def test_one_credit_is_262144(guest: Guest) -> None:
    guest.stingy.add(1)
    assert guest.start("cat", "/dev/zero") == 1
    frames = guest.silence()
    assert sum(len(frame.payload) for frame in frames if frame.type == DATA) == CREDIT
    assert not [frame for frame in frames if frame.type == ERROR]
