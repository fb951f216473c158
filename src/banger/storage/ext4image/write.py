"""Writing the image, from front to back: tables, directories and the like, then the content of the files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Final

from ...model.errors import BadRequest
from ..ext4 import BLOCK_BYTES, INODE_BYTES
from . import directories, extents, inodes, superblock, xattrs
from .copying import copy_range
from .following import FollowingHash
from .layout import GROUP_BLOCKS, INODES_PER_BLOCK
from .nodes import Device, Directory, File, ImageSize, Node, Segment, Symlink
from .plan import Plan, content_bytes, inode_number, make_plan, own_blocks
from .usage import GroupUsage, group_usage

_BATCH: Final = 4096
Tick = Callable[[int, int], None]
"""Gets the bytes copied so far and those in total; may raise to stop the work."""


def write_image(path: Path, root: Directory, *, label: str, tick: Tick = lambda done, total: None) -> ImageSize:
    """Write a tree as a new file ``path`` (0644) that is an ext4 file system of just the size it needs; the same tree gives the same bytes.

    Raises BadRequest for what ext4 cannot hold, OSError, and whatever ``tick`` raises; nothing stays then.
    """
    if len(label.encode()) > 16:
        raise BadRequest(f"{label!r} is too long for the label of an ext4 file system", hint="at most 16 bytes")
    plan = make_plan(root)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        os.fchmod(fd, 0o644)
        return _Writer(fd, plan, label.encode(), tick).write()
    except BaseException:
        path.unlink()
        raise
    finally:
        os.close(fd)


class _Writer:
    def __init__(self, fd: int, plan: Plan, label: bytes, tick: Tick) -> None:
        self._fd = fd
        self._plan = plan
        self._label = label
        self._tick = tick
        self._identity = hashlib.sha256(label)
        self._total = sum(map(content_bytes, plan.nodes))
        self._copied = 0

    def write(self) -> ImageSize:
        plan = self._plan
        blocks = plan.layout.size_blocks(plan.end)
        size = blocks * BLOCK_BYTES
        os.ftruncate(self._fd, size)
        self._write_tables()
        self._write_own_content()
        self._write_groups(group_usage(plan, blocks), blocks)
        with FollowingHash(self._fd) as digest:
            digest.advance(plan.data_start * BLOCK_BYTES)
            for place, node in enumerate(plan.nodes):
                if isinstance(node, File) and plan.starts[place]:
                    self._write_file(place, node)
                    digest.advance(plan.starts[place] * BLOCK_BYTES)
            found = digest.finish(size)
        return ImageSize(size_bytes=size, content_bytes=self._total, inodes=len(plan.nodes) - 1, digest=found)

    def _write_at(self, block: int, content: bytes) -> None:
        view = memoryview(content)
        offset = block * BLOCK_BYTES
        while view:
            done = os.pwrite(self._fd, view, offset)
            view, offset = view[done:], offset + done

    def _write_tables(self) -> None:
        layout = self._plan.layout
        records = self._records()
        for table in layout.tables:
            for first in range(0, layout.inodes_per_group, _BATCH):
                content = b"".join(islice(records, min(_BATCH, layout.inodes_per_group - first)))
                self._identity.update(content)
                self._write_at(table + first // INODES_PER_BLOCK, content)

    def _records(self) -> Iterator[bytes]:
        """All inodes from the first one on."""
        nothing = bytes(INODE_BYTES)
        yield nothing
        yield self._record(0, self._plan.nodes[0])
        for _ in range(inode_number(0), inode_number(1) - 1):
            yield nothing
        for place in range(1, len(self._plan.nodes)):
            yield self._record(place, self._plan.nodes[place])

    def _record(self, place: int, node: Node) -> bytes:
        plan = self._plan
        blocks = own_blocks(node) + (place in plan.xattr_blocks)
        match node:
            case File(size=size):
                pieces = plan.extents(place)
                trees = self._tree_blocks(place, len(pieces))
                blocks += len(trees)
                root = extents.encode(pieces, trees)[0]
            case Directory():
                size = blocks * BLOCK_BYTES - (place in plan.xattr_blocks) * BLOCK_BYTES
                root = extents.encode(plan.extents(place), ())[0]
            case Symlink(target=target):
                size = len(target)
                root = extents.encode(plan.extents(place), ())[0] if size >= inodes.INLINE_TARGET else target
            case Device():
                size, root = 0, inodes.device_number(node)
            case _:
                size, root = 0, b""
        end = xattrs.encode(node.attributes.xattrs)[0]
        links, block = plan.links[place], plan.xattr_blocks.get(place, 0)
        return inodes.encode(node, size=size, links=links, blocks=blocks, root=root, xattr_block=block, xattrs=end)

    def _tree_blocks(self, place: int, count: int) -> list[int]:
        """Where the extent tree of a file of so many extents continues: behind its content."""
        needed = extents.tree_blocks(count)
        if not needed:
            return []
        plan = self._plan
        behind = plan.layout.end_of(plan.starts[place], own_blocks(plan.nodes[place]))
        return plan.block_numbers(behind, needed)

    def _write_own_content(self) -> None:
        plan = self._plan
        for place, node in enumerate(plan.nodes):
            if isinstance(node, Directory):
                self._write_directory(place, node)
            elif isinstance(node, Symlink) and plan.starts[place]:
                self._write_at(plan.starts[place], node.target.ljust(BLOCK_BYTES, b"\0"))
            if place in plan.xattr_blocks:
                self._write_at(plan.xattr_blocks[place], xattrs.encode(node.attributes.xattrs)[1])

    def _write_directory(self, place: int, node: Directory) -> None:
        plan = self._plan
        places = plan.places
        entries = [(name, inode_number(places[id(child)]), directories.kind_of(child)) for name, child in sorted(node.children.items())]
        blocks = directories.encode(inode_number(place), inode_number(plan.parents[place]), entries)
        for start, length in plan.layout.runs(plan.starts[place], own_blocks(node)):
            for block in range(start, start + length):
                content = next(blocks)
                self._identity.update(content)
                self._write_at(block, content)

    def _write_groups(self, usage: list[GroupUsage], blocks: int) -> None:
        layout = self._plan.layout
        identity = self._identity.digest()
        descriptors = superblock.encode_descriptors(layout, usage)
        for start, _ in layout.copies:
            group = start // GROUP_BLOCKS
            head = superblock.encode(layout, blocks, usage, label=self._label, identity=identity, group=group)
            # The first superblock leaves room for a boot loader, its copies do not.
            self._write_at(start, (bytes(1024) + head if group == 0 else head).ljust(BLOCK_BYTES, b"\0") + descriptors)
        self._write_at(layout.block_bitmaps, b"".join(one.blocks for one in usage))
        self._write_at(layout.inode_bitmaps, b"".join(one.inodes for one in usage))

    def _write_file(self, place: int, node: File) -> None:
        pieces = self._plan.extents(place)
        segments = iter(node.segments if node.segments is not None else (Segment(0, node.source_offset, node.size),))
        segment = next(segments)
        for logical, physical, count in pieces:
            begin, end = logical * BLOCK_BYTES, (logical + count) * BLOCK_BYTES
            while True:
                first, behind = max(begin, segment.offset), min(end, segment.offset + segment.length)
                if first < behind:
                    self._copy(node.source, segment.source_offset + first - segment.offset, physical * BLOCK_BYTES + first - begin, behind - first)
                if segment.offset + segment.length > end:
                    break
                following = next(segments, None)
                if following is None:
                    break
                segment = following
                if segment.offset >= end:
                    break
        for block, content in zip(trees := self._tree_blocks(place, len(pieces)), extents.encode(pieces, trees)[1], strict=True):
            self._write_at(block, content)

    def _copy(self, source: int, source_offset: int, offset: int, size: int) -> None:
        copy_range(source, source_offset, self._fd, offset, size, self._count)

    def _count(self, done: int) -> None:
        self._copied += done
        self._tick(self._copied, self._total)
