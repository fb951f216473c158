"""Directory blocks: lists of entries. No hash trees: the base is read, and a kernel makes one itself where it adds names."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Final

from ..ext4 import BLOCK_BYTES
from .nodes import Device, Directory, Fifo, File, Node, Symlink

_ENTRY: Final = struct.Struct("<IHBB")
_DOTS: Final = 24
"""Bytes of the entries for ``.`` and ``..``."""
_DIRECTORY: Final = 2

Entry = tuple[bytes, int, int]
"""Name, inode number, type of file."""


def kind_of(node: Node) -> int:
    """The type of file as in a directory entry."""
    match node:
        case File():
            return 1
        case Directory():
            return _DIRECTORY
        case Device(block=block):
            return 4 if block else 3
        case Fifo():
            return 5
        case Symlink():
            return 7


def block_count(names: Iterable[bytes]) -> int:
    """Blocks of a directory with these names, in this order."""
    blocks, used = 1, _DOTS
    for name in names:
        size = (len(name) + 11) & ~3
        used += size
        if used > BLOCK_BYTES:
            blocks, used = blocks + 1, size
    return blocks


def encode(own: int, parent: int, entries: Iterable[Entry]) -> Iterator[bytes]:
    """The blocks of a directory whose inode is ``own``; as many as ``block_count`` says."""
    block: list[bytes] = []
    used = 0
    last: Entry = (b"..", parent, _DIRECTORY)
    block.append(_ENTRY.pack(own, 12, 1, _DIRECTORY) + b".\0\0\0")
    used = 12
    for entry in entries:
        size = (len(last[0]) + 11) & ~3
        if used + size + ((len(entry[0]) + 11) & ~3) > BLOCK_BYTES:
            yield b"".join(block) + _packed(last, BLOCK_BYTES - used)
            block, used = [], 0
        else:
            block.append(_packed(last, size))
            used += size
        last = entry
    yield b"".join(block) + _packed(last, BLOCK_BYTES - used)


def _packed(entry: Entry, size: int) -> bytes:
    name, inode, kind = entry
    return (_ENTRY.pack(inode, size, len(name), kind) + name).ljust(size, b"\0")
