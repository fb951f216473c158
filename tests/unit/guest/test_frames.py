"""The frame codec: whatever happens to the bytes, whole frames come out and damaged ones do not."""

from __future__ import annotations

import itertools
import struct
import subprocess
import sys
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from banger.guest.frames import HEADER_SIZE, MAGIC, MAX_FRAME, MAX_PAYLOAD, TRAILER, Frame, FrameReader, FrameType, encode

ZEROS = bytes(65536)

frames = st.builds(
    Frame,
    type=st.integers(0, 255),
    stream=st.integers(0, 0xFFFFFFFF),
    payload=st.one_of(st.binary(max_size=200), st.just(b"x" * MAX_PAYLOAD), st.just(MAGIC * 50), st.just(TRAILER * 50)),
    channel=st.integers(0, 255),
    epoch=st.integers(0, 0xFFFFFFFF),
)
garbage = st.one_of(st.binary(max_size=100), st.just(MAGIC), st.just(MAGIC[:3]), st.just(MAGIC * 20), st.just(TRAILER * 9))


@st.composite
def half_frames(draw: st.DrawFn) -> bytes:
    whole = encode(draw(frames))
    return whole[: draw(st.integers(0, len(whole) - 1))]


@st.composite
def embedded(draw: st.DrawFn) -> Frame:
    """A frame whose payload holds another whole frame, which must not come out on its own."""
    return Frame(FrameType.DATA, 7, b"<" + encode(draw(frames.filter(lambda f: len(f.payload) < 1000))) + b">")


def by_the_book(data: bytes) -> list[Frame]:
    """Section 2 of docs/agent-protocol.md, word by word, on a finished recording."""
    found: list[Frame] = []
    position = 0
    while position + HEADER_SIZE <= len(data):
        head = data[position : position + HEADER_SIZE]
        magic, kind, channel, reserved, stream, length, epoch, checksum = struct.unpack("<4sBBHIIII", head)
        end = position + HEADER_SIZE + length
        good = magic == MAGIC and zlib.crc32(head[:20]) == checksum and reserved == 0 and length <= MAX_PAYLOAD
        if good and data[end : end + 4] == TRAILER:
            found.append(Frame(kind, stream, data[position + HEADER_SIZE : end], channel, epoch))
            position = end + 4
        else:
            position += 1
    return found


def read_in_pieces(data: bytes, cuts: list[int]) -> list[Frame]:
    reader = FrameReader()
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [frame for a, b in itertools.pairwise(edges) for frame in reader.feed(data[a:b])]


def test_layout_is_that_of_the_protocol_page() -> None:
    head = b"BGR1" + bytes([18, 2]) + b"\0\0" + b"\x07\0\0\0" + b"\x03\0\0\0" + b"\x01\0\0\0"
    assert encode(Frame(FrameType.DATA, 7, b"abc", 2, 1)) == head + struct.pack("<I", zlib.crc32(head)) + b"abc" + b"\x52\x42\x0a\x5a"
    assert MAX_FRAME == 65532


def test_a_payload_that_is_too_long_is_refused() -> None:
    assert len(encode(Frame(1, 1, bytes(MAX_PAYLOAD)))) == MAX_FRAME
    with pytest.raises(ValueError, match="65505"):
        encode(Frame(1, 1, bytes(MAX_PAYLOAD + 1)))


@given(st.lists(st.one_of(frames, embedded()), max_size=5), st.lists(st.integers(0, 1 << 20), max_size=30))
def test_frames_survive_any_splitting(sent: list[Frame], cuts: list[int]) -> None:
    assert read_in_pieces(b"".join(map(encode, sent)), cuts) == sent


@given(st.lists(st.one_of(garbage, half_frames(), frames.map(encode)), max_size=8), st.lists(st.integers(0, 1 << 20), max_size=20))
@settings(max_examples=150, deadline=None)
def test_damage_is_skipped_as_the_page_says_however_the_bytes_are_cut(parts: list[bytes], cuts: list[int]) -> None:
    data = b"".join(parts) + ZEROS
    assert read_in_pieces(data, cuts) == by_the_book(data)


@given(st.lists(st.one_of(garbage, half_frames()), max_size=5), st.lists(frames, min_size=1, max_size=3), st.lists(st.integers(0, 1 << 20), max_size=20))
@settings(max_examples=100, deadline=None)
def test_after_zeros_every_whole_frame_comes_out(damage: list[bytes], sent: list[Frame], cuts: list[int]) -> None:
    data = b"".join(damage) + ZEROS + b"".join(map(encode, sent))
    got = read_in_pieces(data, cuts)
    assert got[-len(sent) :] == sent


@given(frames, st.integers(1, MAX_FRAME))
@settings(deadline=None)
def test_a_cut_frame_never_comes_out(frame: Frame, missing: int) -> None:
    whole = encode(frame)
    reader = FrameReader()
    cut = whole[: max(0, len(whole) - missing)]
    assert [f for f in reader.feed(cut) + reader.feed(ZEROS) if f == frame] == []


@given(st.integers(0, 23), st.integers(1, 255))
def test_a_flipped_header_is_not_believed_and_costs_nothing_else(position: int, flip: int) -> None:
    damaged = bytearray(encode(Frame(FrameType.DATA, 1, b"one")))
    damaged[position] ^= flip
    after = Frame(FrameType.DATA, 1, b"two")
    assert FrameReader().feed(bytes(damaged) + encode(after)) == [after]


@pytest.mark.parametrize("head", [struct.pack("<4sBBHIII", MAGIC, 18, 0, 1, 1, 0, 0), struct.pack("<4sBBHIII", MAGIC, 18, 0, 0, 1, MAX_PAYLOAD + 1, 0)])
def test_reserved_bits_and_length_are_checked_before_the_length_is_believed(head: bytes) -> None:
    after = Frame(FrameType.DATA, 1, b"two")
    assert FrameReader().feed(head + struct.pack("<I", zlib.crc32(head)) + TRAILER + encode(after)) == [after]


def test_no_more_than_a_frame_is_held_back() -> None:
    reader = FrameReader()
    believed = encode(Frame(FrameType.DATA, 1, bytes(MAX_PAYLOAD)))
    noise = [b"BGR1" * 1000, bytes(4000), believed[:30], believed[:-1]]
    for part in noise * 30:
        reader.feed(part)
        assert len(reader._buffer) < MAX_FRAME


def test_a_frame_that_comes_byte_by_byte() -> None:
    reader = FrameReader()
    sent = Frame(FrameType.DATA, 3, bytes(range(256)) * 255, 1, 9)
    assert [frame for byte in encode(sent) for frame in reader.feed(bytes([byte]))] == [sent]


def test_importing_the_codec_imports_nothing_slow() -> None:
    code = (
        "import sys; import banger.guest.frames, banger.guest.fields, banger.guest.outcome;"
        "print([m for m in ('asyncio', 'msgspec', 'socket', 'pathlib', 'logging', 'subprocess') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, timeout=30, env={"PYTHONPATH": ":".join(sys.path)})
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
