"""Extent trees: which block of a file lies where in the image."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from ..ext4 import BLOCK_BYTES
from .layout import Run
from .nodes import File

MAX_FILE_BYTES: Final = (1 << 32) * BLOCK_BYTES - BLOCK_BYTES
"""Block numbers in a file have 32 bits, and the last one is reserved."""
_MAGIC: Final = 0xF30A
_HEADER: Final = struct.Struct("<HHHHI")
_LEAF: Final = struct.Struct("<IHHI")
_INDEX: Final = struct.Struct("<IIHH")
_IN_INODE: Final = 4
_IN_BLOCK: Final = (BLOCK_BYTES - _HEADER.size) // _LEAF.size
_MAX_LENGTH: Final = 32768
"""A greater length would mean "not written yet"."""

Extent = tuple[int, int, int]
"""First block in the file, first block in the image, number of blocks."""


def pieces(file: File) -> list[Run]:
    """The blocks of a file that are not holes: first block and count, ascending, merged."""
    if file.segments is None:
        return [(0, -(-file.size // BLOCK_BYTES))] if file.size else []
    found: list[Run] = []
    end = 0
    for segment in file.segments:
        first, behind = segment.offset // BLOCK_BYTES, -(-(segment.offset + segment.length) // BLOCK_BYTES)
        if not segment.length:
            continue
        if found and first <= end:
            found[-1] = (found[-1][0], behind - found[-1][0])
        else:
            found.append((first, behind - first))
        end = behind
    return found


def map_pieces(logical: Iterable[Run], physical: Iterator[Run]) -> list[Extent]:
    """Lay pieces of a file on runs of the image, which are as many blocks."""
    found: list[Extent] = []
    start, room = 0, 0
    for first, count in logical:
        done = 0
        while done < count:
            if not room:
                start, room = next(physical)
            taken = min(room, count - done, _MAX_LENGTH)
            found.append((first + done, start, taken))
            done, start, room = done + taken, start + taken, room - taken
    return found


def tree_blocks(extents: int) -> int:
    """How many blocks beside the inode a tree of so many extents takes; never fewer for more extents."""
    total = 0
    while extents > _IN_INODE:
        extents = -(-extents // _IN_BLOCK)
        total += extents
    return total


def encode(extents: Sequence[Extent], blocks: Sequence[int]) -> tuple[bytes, list[bytes]]:
    """The 60 bytes in the inode, and the content of ``blocks``, of which there are ``tree_blocks(len(extents))``."""
    free = iter(blocks)
    written: list[bytes] = []
    firsts = [extent[0] for extent in extents]
    entries = [_LEAF.pack(logical, count, physical >> 32, physical & 0xFFFFFFFF) for logical, physical, count in extents]
    depth = 0
    while len(entries) > _IN_INODE:
        above: list[bytes] = []
        for at in range(0, len(entries), _IN_BLOCK):
            block = next(free)
            written.append(_node(entries[at : at + _IN_BLOCK], _IN_BLOCK, depth).ljust(BLOCK_BYTES, b"\0"))
            above.append(_INDEX.pack(firsts[at], block & 0xFFFFFFFF, block >> 32, 0))
        firsts = firsts[::_IN_BLOCK]
        entries = above
        depth += 1
    return _node(entries, _IN_INODE, depth).ljust(60, b"\0"), written


def _node(entries: Sequence[bytes], room: int, depth: int) -> bytes:
    return _HEADER.pack(_MAGIC, len(entries), room, depth, 0) + b"".join(entries)
