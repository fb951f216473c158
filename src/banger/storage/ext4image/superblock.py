"""The superblock and the group descriptors.

No journal: the base is only read. No metadata_csum: CRC-32C of every inode and block would cost more time in Python than all the rest, and the
image's digest already vouches for it.
"""

from __future__ import annotations

import struct
from typing import Final

from ..ext4 import BLOCK_BYTES, INODE_BYTES
from .layout import DESCRIPTOR_BYTES, FIRST_INODE, GROUP_BLOCKS, Layout
from .usage import GroupUsage
from .xattrs import EXTRA_INODE_BYTES

_COMPATIBLE: Final = 0x8 | 0x20  # ext_attr, dir_index
_INCOMPATIBLE: Final = 0x2 | 0x40 | 0x80 | 0x200  # filetype, extent, 64bit, flex_bg
_READ_ONLY_COMPATIBLE: Final = 0x1 | 0x2 | 0x8 | 0x20 | 0x40  # sparse_super, large_file, huge_file, dir_nlink, extra_isize
_MOUNT_OPTIONS: Final = 0x4 | 0x8  # user_xattr, acl
_SIGNED_HASH: Final = 0x1
_HALF_MD4: Final = 1
_GROUPS_PER_FLEX_LOG: Final = 4
_DESCRIPTOR: Final = struct.Struct("<IIIHHHHIHHHHIIIHHHHIHHI")
assert _DESCRIPTOR.size == DESCRIPTOR_BYTES


def encode(layout: Layout, blocks: int, usage: list[GroupUsage], *, label: bytes, identity: bytes, group: int) -> bytes:
    """The 1024 bytes of the superblock, or of its copy in ``group``. ``identity`` is 32 bytes that make the UUID and the seed of hash trees."""
    free_blocks = sum(one.free_blocks for one in usage)
    free_inodes = sum(one.free_inodes for one in usage)
    uuid = bytearray(identity[:16])
    uuid[6], uuid[8] = uuid[6] & 0x0F | 0x80, uuid[8] & 0x3F | 0x80  # RFC 9562, version 8: made from what it names
    low = 0xFFFFFFFF
    head = struct.pack(
        "<IIIIIIIIIIIIIHHHHHHIIIIHHIHHIII16s16s64xIBBH",
        layout.inodes_per_group * layout.groups, blocks & low, 0, free_blocks & low, free_inodes, 0, 2, 2,
        GROUP_BLOCKS, GROUP_BLOCKS, layout.inodes_per_group, 0, 0, 0, 0xFFFF, 0xEF53, 1, 1, 0,
        0, 0, 0, 1, 0, 0, FIRST_INODE, INODE_BYTES, group, _COMPATIBLE, _INCOMPATIBLE, _READ_ONLY_COMPATIBLE,
        bytes(uuid), label, 0, 0, 0, 0,
    )  # fmt: skip
    tail = struct.pack(
        "<16xIII16sBBHIII68xIIIHHIHHQIB",
        0, 0, 0, identity[16:32], _HALF_MD4, 0, DESCRIPTOR_BYTES, _MOUNT_OPTIONS, 0, 0,
        blocks >> 32, 0, free_blocks >> 32, EXTRA_INODE_BYTES, EXTRA_INODE_BYTES, _SIGNED_HASH, 0, 0, 0, 0, _GROUPS_PER_FLEX_LOG,
    )  # fmt: skip
    return (head + tail).ljust(1024, b"\0")


def encode_descriptors(layout: Layout, usage: list[GroupUsage]) -> bytes:
    """The table of group descriptors, in whole blocks."""
    table = b"".join(_descriptor(layout, group, one) for group, one in enumerate(usage))
    return table.ljust(layout.descriptor_blocks * BLOCK_BYTES, b"\0")


def _descriptor(layout: Layout, group: int, usage: GroupUsage) -> bytes:
    places = (layout.block_bitmaps + group, layout.inode_bitmaps + group, layout.tables[group])
    counts = (usage.free_blocks, usage.free_inodes, usage.directories)
    return _DESCRIPTOR.pack(*(place & 0xFFFFFFFF for place in places), *counts, 0, 0, 0, 0, 0, 0, *(place >> 32 for place in places), 0, 0, 0, 0, 0, 0, 0, 0)
