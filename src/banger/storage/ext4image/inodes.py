"""Inode records."""

from __future__ import annotations

import struct
from typing import Final

from ..ext4 import BLOCK_BYTES
from .nodes import Attributes, Device, Directory, Fifo, File, Node, Symlink
from .xattrs import EXTRA_INODE_BYTES

INLINE_TARGET: Final = 60
"""A shorter target of a symbolic link lies in the inode."""
MAX_LINKS: Final = 65000
_RECORD: Final = struct.Struct("<HHIIIIIHHIII60sIIIIHHHHHHHHIIIIIII96s")
_EXTENTS_FLAG: Final = 0x80000
_SECTORS_PER_BLOCK: Final = BLOCK_BYTES // 512
_OLDEST: Final = -(1 << 31)
_NEWEST: Final = _OLDEST + 3 * (1 << 32) - 1
"""The format reaches 2446, but e2fsck takes what is beyond 2310-04-04 for a mistake of old kernels (times before 1970)."""


def encode(node: Node, *, size: int, links: int, blocks: int, root: bytes, xattr_block: int, xattrs: bytes) -> bytes:
    """The 256 bytes of a node's inode. ``blocks`` counts all it uses, ``root`` is its extent tree, target or device number, ``xattrs`` the record's end."""
    attributes = node.attributes
    seconds, extra = _time(attributes)
    sectors = blocks * _SECTORS_PER_BLOCK
    uid, gid = attributes.uid, attributes.gid
    return _RECORD.pack(
        _type(node) | attributes.mode, uid & 0xFFFF, size & 0xFFFFFFFF, seconds, seconds, seconds, 0,
        gid & 0xFFFF, links if links <= MAX_LINKS else 1, sectors & 0xFFFFFFFF, _EXTENTS_FLAG if _has_extents(node) else 0, 0, root,
        0, xattr_block & 0xFFFFFFFF, size >> 32, 0, sectors >> 32, xattr_block >> 32, uid >> 16, gid >> 16, 0, 0,
        EXTRA_INODE_BYTES, 0, extra, extra, extra, seconds, extra, 0, 0, xattrs,
    )  # fmt: skip


def device_number(device: Device) -> bytes:
    """What stands in the place of an extent tree: the old 16 bits where they suffice, else the new 32 (kdev_t.h)."""
    if device.major < 256 and device.minor < 256:
        return struct.pack("<I56x", device.major << 8 | device.minor)
    return struct.pack("<II52x", 0, device.minor & 0xFF | device.major << 8 | (device.minor & ~0xFF) << 12)


def _type(node: Node) -> int:
    match node:
        case File():
            return 0o100000
        case Directory():
            return 0o040000
        case Symlink():
            return 0o120000
        case Device(block=block):
            return 0o060000 if block else 0o020000
        case Fifo():
            return 0o010000


def _has_extents(node: Node) -> bool:
    return isinstance(node, File | Directory) or (isinstance(node, Symlink) and len(node.target) >= INLINE_TARGET)


def _time(attributes: Attributes) -> tuple[int, int]:
    """The low 32 bits of the seconds, and the word with two more of them and the nanoseconds."""
    seconds, nanoseconds = divmod(attributes.mtime_ns, 1_000_000_000)
    if not _OLDEST <= seconds <= _NEWEST:
        seconds, nanoseconds = (_OLDEST, 0) if seconds < _OLDEST else (_NEWEST, 0)
    return seconds & 0xFFFFFFFF, nanoseconds << 2 | (seconds - _OLDEST) >> 32
