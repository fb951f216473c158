"""The tree stream of docs/agent-protocol.md, section 8, written a second time and in the plainest way: an oracle for the C program."""

from __future__ import annotations

import struct

from tests.guest.wire import Outcome, number, pack, u8, u32, u64, unpack

UNPACK, PACK, STAT, USER, JOB_START, JOB_LIST, JOB_SIGNAL, JOB_OUTPUT = range(11, 19)
DIRECTORY, REGULAR, SYMLINK, HARDLINK, REMOVE, PRUNE = range(1, 7)
END = bytes(4)


def entry(kind: int, path: bytes, *fields: tuple[int, bytes]) -> bytes:
    record = pack([(1, u8(kind)), (2, path), *fields])
    return struct.pack("<I", len(record)) + record


def directory(path: bytes, mode: int = 0o755, *fields: tuple[int, bytes]) -> bytes:
    return entry(DIRECTORY, path, (3, u32(mode)), *fields)


def segments(*pieces: tuple[int, bytes], size: int) -> bytes:
    return b"".join(struct.pack("<QI", at, len(data)) + data for at, data in pieces) + struct.pack("<QI", size, 0)


def regular(path: bytes, content: bytes, mode: int = 0o644, *fields: tuple[int, bytes]) -> bytes:
    pieces = [(0, content)] if content else []
    return entry(REGULAR, path, (3, u32(mode)), (7, u64(len(content))), *fields) + segments(*pieces, size=len(content))


def symlink(path: bytes, target: bytes) -> bytes:
    return entry(SYMLINK, path, (8, target))


def hardlink(path: bytes, target: bytes) -> bytes:
    return entry(HARDLINK, path, (8, target))


def remove(path: bytes) -> bytes:
    return entry(REMOVE, path)


def prune(path: bytes) -> bytes:
    return entry(PRUNE, path)


def parse(stream: bytes) -> dict[bytes, tuple[dict[int, bytes], bytes]]:
    """Path -> (fields, content with zeros in its holes), in order."""
    found: dict[bytes, tuple[dict[int, bytes], bytes]] = {}
    while (length := struct.unpack_from("<I", stream)[0]) != 0:
        fields = dict(unpack(stream[4 : 4 + length]))
        stream = stream[4 + length :]
        content = bytearray()
        if number(fields[1]) == REGULAR:
            while True:
                at, size = struct.unpack_from("<QI", stream)
                content += bytes(at - len(content)) + stream[12 : 12 + size]
                stream = stream[12 + size :]
                if not size:
                    break
        found[fields[2]] = fields, bytes(content)
    assert stream == END
    return found


def counts(outcome: Outcome) -> tuple[int, int]:
    return number(outcome.fields[16]), number(outcome.fields[17])
