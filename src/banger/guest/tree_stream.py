"""The tree stream: a forest of files as a stream of bytes (docs/agent-protocol.md, section 8). Sans-IO, quick to import.

What a guest sends is decoded here and nowhere else: every length is bounded before anything is kept, and every path is checked.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from ..model.errors import GuestError
from .fields import Fields, i64, nested, pack, u8, u32, u64

RECORD_MAX: Final = 64 * 1024
"""Bytes of an entry's fields."""
PATH_MAX: Final = 4095
NAME_MAX: Final = 255
SEGMENT_MAX: Final = 2**32 - 1
XATTRS_MAX: Final = 256
_LENGTH: Final = struct.Struct("<I")
_SEGMENT: Final = struct.Struct("<QI")
_MODE_BITS: Final = 0o7777
_SIZE_MAX: Final = 2**63 - 1

END: Final = _LENGTH.pack(0)
"""What a stream ends with."""


class Kind(IntEnum):
    """What an entry is."""

    DIRECTORY = 1
    REGULAR = 2
    SYMLINK = 3
    HARDLINK = 4
    """Another name for the regular file ``target``, a path earlier in the stream."""
    REMOVE = 5
    """Whatever has this path goes, with all that is in it; nothing there, or a symbolic link on the way, is success."""
    PRUNE = 6
    """The directory that has this path goes if it is empty; anything else stays."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One file. ``path`` is relative, without ``.`` and ``..``; only a directory may be ``.``, the destination itself."""

    kind: Kind
    path: bytes
    mode: int | None = None
    """Permission bits with setuid, setgid and sticky; None = as the receiver likes, as for what follows."""
    uid: int | None = None
    gid: int | None = None
    mtime_ns: int | None = None
    size: int = 0
    """Of a regular file: segments of its content follow the entry, within this size."""
    target: bytes = b""
    xattrs: tuple[tuple[str, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class Content:
    """Bytes of the regular file whose entry came last; what lies before ``offset`` and was not sent is a hole."""

    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class FileEnd:
    """The content of the regular file is complete. ``size`` may be less than announced when the file shrank meanwhile."""

    size: int


@dataclass(frozen=True, slots=True)
class StreamEnd:
    """Nothing follows."""


Event = Entry | Content | FileEnd | StreamEnd


def encode_entry(entry: Entry) -> bytes:
    """The entry as sent. Raises ValueError when its path or its extended attributes are longer than the format allows."""
    fields = [(1, u8(entry.kind)), (2, entry.path)]
    if entry.mode is not None:
        fields.append((3, u32(entry.mode)))
    if entry.uid is not None and entry.gid is not None:
        fields += [(4, u32(entry.uid)), (5, u32(entry.gid))]
    if entry.mtime_ns is not None:
        fields.append((6, i64(entry.mtime_ns)))
    if entry.kind is Kind.REGULAR:
        fields.append((7, u64(entry.size)))
    if entry.target:
        fields.append((8, entry.target))
    fields += [(9, nested((1, name.encode()), (2, value))) for name, value in entry.xattrs]
    record = pack(*fields)
    if len(record) > RECORD_MAX or not _is_good_path(entry.path, entry.kind) or len(entry.target) > PATH_MAX:
        raise ValueError(f"{entry.path[:80]!r} does not fit into a tree stream")
    return _LENGTH.pack(len(record)) + record


def segment_header(offset: int, length: int) -> bytes:
    """What stands before ``length`` (1 .. SEGMENT_MAX) bytes of content."""
    return _SEGMENT.pack(offset, length)


def encode_file_end(size: int) -> bytes:
    """What stands behind the last segment of every regular file."""
    return _SEGMENT.pack(size, 0)


def small_file(entry: Entry, content: bytes) -> bytes:
    """A regular file as a whole; ``entry.size`` must be the length of ``content``."""
    head = segment_header(0, len(content)) if content else b""
    return b"".join((encode_entry(entry), head, content, encode_file_end(len(content))))


class TreeDecoder:
    """Turns a stream of untrusted bytes into events. Keeps at most one unfinished header; content is handed out as it comes."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._size: int | None = None
        """Announced size of the file whose segments come; None between files."""
        self._at = 0
        self._rest = 0
        self._over = False

    def feed(self, untrusted: bytes | memoryview) -> Iterator[Event]:
        """The events that these bytes complete, to be consumed before the next call. Raises GuestError for anything that is not a tree stream."""
        self._buffer += untrusted
        while (event := self._next()) is not None:
            yield event

    def finish(self) -> None:
        """No bytes follow. Raises GuestError unless the stream was complete."""
        if not self._over:
            raise GuestError("malformed tree stream: it ends in the middle")

    def _next(self) -> Event | None:
        if self._over:
            if self._buffer:
                raise GuestError("malformed tree stream: something follows its end")
            return None
        if self._rest:
            return self._content()
        return self._entry() if self._size is None else self._segment(self._size)

    def _content(self) -> Event | None:
        data = bytes(self._buffer[: self._rest])
        if not data:
            return None
        del self._buffer[: len(data)]
        content = Content(self._at, data)
        self._at += len(data)
        self._rest -= len(data)
        return content

    def _segment(self, size: int) -> Event | None:
        if len(self._buffer) < _SEGMENT.size:
            return None
        offset, length = _SEGMENT.unpack_from(self._buffer)
        del self._buffer[: _SEGMENT.size]
        if not self._at <= offset <= size or length > size - offset:
            raise GuestError("malformed tree stream: a segment outside of its file")
        if not length:
            self._size = None
            return FileEnd(offset)
        self._at, self._rest = offset, length
        return self._next()

    def _entry(self) -> Event | None:
        if len(self._buffer) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(self._buffer)
        if length > RECORD_MAX:
            raise GuestError(f"malformed tree stream: an entry of {length} bytes")
        if len(self._buffer) < _LENGTH.size + length:
            return None
        untrusted_record = bytes(self._buffer[_LENGTH.size : _LENGTH.size + length])
        del self._buffer[: _LENGTH.size + length]
        if not length:
            self._over = True
            return StreamEnd()
        entry = decode_entry(untrusted_record)
        if entry.kind is Kind.REGULAR:
            self._size, self._at = entry.size, 0
        return entry


def decode_entry(untrusted_record: bytes) -> Entry:
    """The entry that these fields describe. Raises GuestError when they are malformed or the path is not one beneath the destination."""
    fields = Fields.parse(untrusted_record)
    number = fields.u8(1)
    if number not in Kind.__members__.values():
        raise GuestError(f"malformed tree stream: an entry of the unknown type {number}")
    kind = Kind(number)
    path = fields.raw(2, b"")
    if not _is_good_path(path, kind):
        raise GuestError(f"malformed tree stream: {path[:80]!r} is not a path beneath the destination")
    target = fields.raw(8, b"")
    if kind in (Kind.SYMLINK, Kind.HARDLINK) and (not 1 <= len(target) <= PATH_MAX or b"\0" in target):
        raise GuestError(f"malformed tree stream: {path[:80]!r} is a link without a target")
    if kind is Kind.HARDLINK and not _is_good_path(target, kind):
        raise GuestError(f"malformed tree stream: {path[:80]!r} is a link to something outside")
    return Entry(
        kind=kind,
        path=path,
        mode=fields.u32(3) & _MODE_BITS if fields.has(3) else None,
        uid=fields.u32(4) if fields.has(4) else None,
        gid=fields.u32(5) if fields.has(5) else None,
        mtime_ns=fields.i64(6) if fields.has(6) else None,
        size=_checked_size(fields.u64(7, 0)),
        target=target,
        xattrs=tuple((one.text(1, limit=NAME_MAX), one.raw(2, b"")) for one in fields.nested(9, at_most=XATTRS_MAX)),
    )


def _checked_size(untrusted_size: int) -> int:
    if untrusted_size > _SIZE_MAX:
        raise GuestError(f"malformed tree stream: a file of {untrusted_size} bytes")
    return untrusted_size


def _is_good_path(path: bytes, kind: Kind) -> bool:
    if path == b".":
        return kind is Kind.DIRECTORY
    if not path or len(path) > PATH_MAX or b"\0" in path:
        return False
    return all(name not in (b"", b".", b"..") and len(name) <= NAME_MAX for name in path.split(b"/"))
