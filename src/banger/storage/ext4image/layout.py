"""Where things lie in the image: groups, copies of the superblock, tables, and a cursor that hands out the blocks behind them.

Numbers and structures of this package: kernel.org, "ext4 Data Structures and Algorithms" (Documentation/filesystems/ext4), and ext4.h of Linux.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from ..ext4 import BLOCK_BYTES, INODE_BYTES

GROUP_BLOCKS: Final = 8 * BLOCK_BYTES
"""One bitmap block has a bit for each block of its group, and for each inode."""
DESCRIPTOR_BYTES: Final = 64
INODES_PER_BLOCK: Final = BLOCK_BYTES // INODE_BYTES
FIRST_INODE: Final = 11
"""The ten before it are reserved."""
_ALIGNMENT: Final = 256
"""The image is a whole number of MiB, and so is its last group: room for a copy of the superblock and of the descriptors."""

Run = tuple[int, int]
"""First block and number of blocks."""


@dataclass(frozen=True)
class Layout:
    """A file system of ``groups`` groups for ``inodes`` inodes, the reserved ones included."""

    groups: int
    inodes: int

    @cached_property
    def inodes_per_group(self) -> int:
        """A whole number of blocks of the table."""
        return -(-self.inodes // self.groups // INODES_PER_BLOCK) * INODES_PER_BLOCK

    @cached_property
    def table_blocks(self) -> int:
        """Blocks of each group's inode table."""
        return self.inodes_per_group // INODES_PER_BLOCK

    @cached_property
    def descriptor_blocks(self) -> int:
        """Blocks of the table of group descriptors."""
        return -(-self.groups * DESCRIPTOR_BYTES // BLOCK_BYTES)

    @cached_property
    def copies(self) -> list[Run]:
        """The superblock and descriptors, and their copies (sparse_super)."""
        return [(group * GROUP_BLOCKS, 1 + self.descriptor_blocks) for group in range(self.groups) if has_copy(group)]

    @cached_property
    def _starts(self) -> list[int]:
        return [start for start, _ in self.copies]

    @cached_property
    def block_bitmaps(self) -> int:
        """First of the groups' block bitmaps, one after the other."""
        return self.place(0, self.groups)

    @cached_property
    def inode_bitmaps(self) -> int:
        """First of the groups' inode bitmaps, one after the other."""
        return self.place(self.block_bitmaps + self.groups, self.groups)

    @cached_property
    def tables(self) -> list[int]:
        """First block of each group's inode table."""
        found, cursor = [], self.inode_bitmaps + self.groups
        for _ in range(self.groups):
            cursor = self.place(cursor, self.table_blocks)
            found.append(cursor)
            cursor += self.table_blocks
        return found

    @cached_property
    def first_data_block(self) -> int:
        """Behind all tables."""
        return self.tables[-1] + self.table_blocks

    @cached_property
    def metadata(self) -> list[Run]:
        """All runs that hold no node's blocks, some of them behind ``first_data_block``."""
        tables = [(start, self.table_blocks) for start in self.tables]
        return sorted([*self.copies, (self.block_bitmaps, self.groups), (self.inode_bitmaps, self.groups), *tables])

    def place(self, cursor: int, count: int) -> int:
        """First block at or behind ``cursor`` from which ``count`` blocks lie together."""
        for start, length in self.copies[max(0, bisect_right(self._starts, cursor) - 1) :]:
            if start >= cursor + count:
                break
            cursor = max(cursor, start + length)
        return cursor

    def runs(self, cursor: int, count: int) -> Iterator[Run]:
        """``count`` blocks from ``cursor`` on, around the copies of the superblock."""
        index = bisect_right(self._starts, cursor)
        if index:
            cursor = max(cursor, sum(self.copies[index - 1]))
        while count:
            room = self._starts[index] - cursor if index < len(self._starts) else count
            taken = min(room, count)
            if taken:
                yield cursor, taken
            count -= taken
            if count:
                cursor = sum(self.copies[index])
                index += 1

    def end_of(self, cursor: int, count: int) -> int:
        """The block behind ``count`` blocks from ``cursor`` on."""
        for start, length in self.runs(cursor, count):
            cursor = start + length
        return cursor

    def size_blocks(self, used: int) -> int:
        """Blocks of the image when ``used`` is the block behind the last one in use."""
        needed = max(used, (self.groups - 1) * GROUP_BLOCKS + _ALIGNMENT)
        return -(-needed // _ALIGNMENT) * _ALIGNMENT


def fit(data_blocks: int, nodes: int) -> Layout:
    """The smallest layout for so many blocks and nodes."""
    inodes = nodes + FIRST_INODE
    groups = max(1, -(-inodes // GROUP_BLOCKS))
    while True:
        layout = Layout(groups, inodes)
        needed = layout.size_blocks(layout.end_of(layout.first_data_block, data_blocks))
        if needed <= groups * GROUP_BLOCKS:
            return layout
        groups = max(groups + 1, -(-needed // GROUP_BLOCKS))


def has_copy(group: int) -> bool:
    """Whether a group has a copy of the superblock: 0, 1, and powers of 3, 5 and 7 (sparse_super)."""
    return group <= 1 or any(_is_power(group, base) for base in (3, 5, 7))


def _is_power(number: int, base: int) -> bool:
    while number % base == 0:
        number //= base
    return number == 1
