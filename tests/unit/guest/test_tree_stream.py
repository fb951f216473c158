"""The codec of the tree stream: what is encoded comes back, and nothing else is believed."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from banger.guest.tree_stream import (
    END,
    Content,
    Entry,
    Event,
    FileEnd,
    Kind,
    StreamEnd,
    TreeDecoder,
    encode_entry,
    encode_file_end,
    segment_header,
    small_file,
)
from banger.model.errors import GuestError

names = st.binary(min_size=1, max_size=20).filter(lambda name: name not in (b".", b"..") and b"/" not in name and b"\0" not in name)
paths = st.lists(names, min_size=1, max_size=4).map(b"/".join)
u32s = st.integers(0, 2**32 - 1)
targets = st.binary(min_size=1, max_size=50).filter(lambda target: b"\0" not in target)
xattrs = st.lists(st.tuples(st.text("abc.", min_size=1, max_size=9), st.binary(max_size=9)), max_size=3).map(tuple)
owners = st.one_of(st.just((None, None)), st.tuples(u32s, u32s))


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    kind = draw(st.sampled_from(Kind))
    uid, gid = draw(owners)
    return Entry(
        kind=kind,
        path=draw(paths),
        mode=draw(st.one_of(st.none(), st.integers(0, 0o7777))),
        uid=uid,
        gid=gid,
        mtime_ns=draw(st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1))),
        target=draw(targets) if kind is Kind.SYMLINK else draw(paths) if kind is Kind.HARDLINK else b"",
        xattrs=draw(xattrs),
    )


def decode(stream: bytes, step: int) -> list[Event]:
    decoder = TreeDecoder()
    found: list[Event] = []
    for at in range(0, len(stream), step):
        found += decoder.feed(stream[at : at + step])
    decoder.finish()
    return found


def joined(events: list[Event]) -> list[Event]:
    """Content that continues the one before is one with it."""
    result: list[Event] = []
    for event in events:
        last = result[-1] if result else None
        if isinstance(event, Content) and isinstance(last, Content) and last.offset + len(last.data) == event.offset:
            result[-1] = Content(last.offset, last.data + event.data)
        else:
            result.append(event)
    return result


@given(st.lists(entries(), max_size=8), st.integers(1, 200))
def test_round_trip(forest: list[Entry], step: int) -> None:
    stream = b"".join(encode_entry(entry) + (encode_file_end(0) if entry.kind is Kind.REGULAR else b"") for entry in forest) + END
    assert [event for event in decode(stream, step) if not isinstance(event, FileEnd)] == [*forest, StreamEnd()]


@given(st.lists(st.tuples(st.integers(0, 9), st.binary(min_size=1, max_size=30)), max_size=6), st.integers(0, 9), st.integers(1, 50))
def test_content_with_holes(pieces: list[tuple[int, bytes]], tail: int, step: int) -> None:
    stream, at, expected = b"", 0, []
    for gap, data in pieces:
        at += gap + 1
        expected.append(Content(at, data))
        stream += segment_header(at, len(data)) + data
        at += len(data)
    entry = Entry(kind=Kind.REGULAR, path=b"f", size=at + tail)
    stream = encode_entry(entry) + stream + encode_file_end(at + tail) + END
    assert joined(decode(stream, step)) == [entry, *expected, FileEnd(at + tail), StreamEnd()]


def test_a_small_file() -> None:
    entry = Entry(kind=Kind.REGULAR, path=b"f", size=3)
    assert decode(small_file(entry, b"abc") + END, 1000) == [entry, Content(0, b"abc"), FileEnd(3), StreamEnd()]


@given(st.binary(max_size=300), st.integers(1, 50))
def test_anything_else_is_refused(untrusted: bytes, step: int) -> None:
    try:
        decode(untrusted, step)
    except GuestError:
        return
    assert untrusted.endswith(END)


@given(st.lists(entries(), min_size=1, max_size=4), st.data())
def test_damage_is_refused_or_harmless(forest: list[Entry], data: st.DataObject) -> None:
    stream = bytearray(b"".join(encode_entry(entry) + (encode_file_end(0) if entry.kind is Kind.REGULAR else b"") for entry in forest) + END)
    stream[data.draw(st.integers(0, len(stream) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        events = decode(bytes(stream), 64)
    except GuestError:
        return
    for event in events:
        assert not isinstance(event, Entry) or (b".." not in event.path.split(b"/") and not event.path.startswith(b"/"))


@pytest.mark.parametrize("path", [b"", b"/x", b"../x", b"x/..", b"x//y", b"x/", b"./x", b"a\0b", b"n" * 256, b"a/" * 2048 + b"a", b"."])
def test_paths_outside(path: bytes) -> None:
    with pytest.raises(ValueError, match="tree stream"):
        encode_entry(Entry(kind=Kind.REGULAR, path=path))
    record = struct.pack("<HIB", 1, 1, 2) + struct.pack("<HI", 2, len(path)) + path
    with pytest.raises(GuestError, match="not a path"):
        decode(struct.pack("<I", len(record)) + record + END, 100)


def test_a_long_entry_is_refused_before_it_has_come() -> None:
    with pytest.raises(GuestError, match="65537 bytes"):
        list(TreeDecoder().feed(struct.pack("<I", 65537)))


@pytest.mark.parametrize(
    "segments", [segment_header(5, 6), segment_header(11, 0), segment_header(0, 2) + b"ab" + segment_header(1, 1), segment_header(2**64 - 1, 1)]
)
def test_segments_outside_of_the_file(segments: bytes) -> None:
    with pytest.raises(GuestError, match="outside"):
        decode(encode_entry(Entry(kind=Kind.REGULAR, path=b"f", size=10)) + segments + END, 100)


def test_nothing_follows_the_end() -> None:
    with pytest.raises(GuestError, match="follows"):
        decode(END + b"x", 100)
    with pytest.raises(GuestError, match="in the middle"):
        decode(encode_entry(Entry(kind=Kind.DIRECTORY, path=b"d")), 100)
