"""Which node gets which inode and which blocks, before a byte is written."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from ...model.errors import BadRequest
from . import directories, extents, xattrs
from .inodes import INLINE_TARGET, MAX_LINKS
from .layout import FIRST_INODE, Layout, fit
from .nodes import Attributes, Directory, File, Node, Symlink

LOST_AND_FOUND: Final = b"lost+found"
ROOT_INODE: Final = 2
_MAX_COPIES: Final = 16384
"""Between two copies of the superblock are more blocks than this."""


@dataclass(slots=True)
class Plan:
    """All nodes of a tree, in the order of their inodes; a node is known by its place here, the root's is 0, that of lost+found 1."""

    nodes: list[Node] = field(default_factory=list)
    links: array[int] = field(default_factory=lambda: array("L"))
    places: dict[int, int] = field(default_factory=dict)
    """By ``id`` of the node, which ``nodes`` keeps alive."""
    parents: dict[int, int] = field(default_factory=dict)
    """Place of a directory's parent."""
    starts: array[int] = field(default_factory=lambda: array("Q"))
    """First block of a node's content; 0 = it has none."""
    xattr_blocks: dict[int, int] = field(default_factory=dict)
    layout: Layout = field(default_factory=lambda: Layout(1, FIRST_INODE))
    data_start: int = 0
    """Where the content of the regular files begins; before it lies what this package writes itself."""
    end: int = 0
    """Behind the last block in use."""

    def block_numbers(self, first: int, count: int) -> list[int]:
        """``count`` blocks from ``first`` on."""
        return [block for start, length in self.layout.runs(first, count) for block in range(start, start + length)]

    def extents(self, place: int) -> list[extents.Extent]:
        """Where a node's content lies."""
        node, start = self.nodes[place], self.starts[place]
        if not start:
            return []
        logical = extents.pieces(node) if isinstance(node, File) else [(0, own_blocks(node))]
        return extents.map_pieces(logical, self.layout.runs(start, sum(count for _, count in logical)))


def make_plan(root: Directory) -> Plan:
    """Lay out a tree. Raises BadRequest for what ext4 cannot hold."""
    plan = Plan()
    _collect(plan, _with_lost_and_found(root))
    plan.layout = fit(sum(map(_most_blocks, plan.nodes)), len(plan.nodes))
    _assign(plan)
    return plan


def inode_number(place: int) -> int:
    """Of the node at this place: the root's is fixed, the reserved ones are left out."""
    return place + FIRST_INODE - 1 if place else ROOT_INODE


def own_blocks(node: Node) -> int:
    """Blocks of a node's content, without holes."""
    match node:
        case File():
            return sum(count for _, count in extents.pieces(node))
        case Directory(children=children):
            return directories.block_count(sorted(children))
        case Symlink(target=target):
            return 1 if len(target) >= INLINE_TARGET else 0
        case _:
            return 0


def _with_lost_and_found(root: Directory) -> Directory:
    """e2fsck wants the directory, with the second inode that is not reserved."""
    own = root.children.get(LOST_AND_FOUND, Directory(Attributes(0o700, 0, 0, 0)))
    if not isinstance(own, Directory):
        raise BadRequest("/lost+found must be a directory in an ext4 file system", hint="remove it from the image")
    return Directory(root.attributes, {**root.children, LOST_AND_FOUND: own})


def _collect(plan: Plan, root: Directory) -> None:
    _add(plan, root, 0)
    _add(plan, root.children[LOST_AND_FOUND], 0)
    pending: list[Directory] = [root]
    while pending:
        directory = pending.pop()
        place = plan.places[id(directory)]
        below = []
        for name, node in sorted(directory.children.items()):
            if isinstance(node, Directory):
                plan.links[place] += 1
                below.append(node)
                if id(node) not in plan.places:
                    _add(plan, node, place)
            elif id(node) not in plan.places:
                _add(plan, node, place)
            else:
                _link(plan, plan.places[id(node)], name)
        pending += reversed(below)


def _add(plan: Plan, node: Node, parent: int) -> None:
    place = len(plan.nodes)
    plan.nodes.append(node)
    plan.places[id(node)] = place
    if isinstance(node, Directory):
        plan.parents[place] = parent
        plan.links.append(2)
    else:
        plan.links.append(1)


def _link(plan: Plan, place: int, name: bytes) -> None:
    plan.links[place] += 1
    if plan.links[place] > MAX_LINKS:
        raise BadRequest(f"a file has more than {MAX_LINKS} hard links, the last is {name!r}: ext4 cannot count so many")


def _most_blocks(node: Node) -> int:
    """As many as a node may take, wherever it lies."""
    count = own_blocks(node) + (1 if xattrs.encode(node.attributes.xattrs)[1] else 0)
    if isinstance(node, File) and (node.segments is not None or count > _MAX_COPIES):
        count += extents.tree_blocks(len(extents.pieces(node)) + 2 * (count // _MAX_COPIES + 1))
    return count


def _assign(plan: Plan) -> None:
    cursor = plan.layout.first_data_block
    plan.starts = array("Q", bytes(8 * len(plan.nodes)))
    cursor = _assign_content(plan, cursor, files=False)
    for place, node in enumerate(plan.nodes):
        if node.attributes.xattrs and xattrs.encode(node.attributes.xattrs)[1]:
            [plan.xattr_blocks[place]] = plan.block_numbers(cursor, 1)
            cursor = plan.xattr_blocks[place] + 1
    plan.data_start = cursor
    plan.end = _assign_content(plan, cursor, files=True)


def _assign_content(plan: Plan, cursor: int, *, files: bool) -> int:
    layout = plan.layout
    for place, count in _sizes(plan, files=files):
        plan.starts[place] = layout.place(cursor, 1)
        cursor = layout.end_of(plan.starts[place], count)
        if files:
            cursor = layout.end_of(cursor, extents.tree_blocks(len(plan.extents(place))))
    return cursor


def _sizes(plan: Plan, *, files: bool) -> Iterator[tuple[int, int]]:
    for place, node in enumerate(plan.nodes):
        if isinstance(node, File) is files and (count := own_blocks(node)):
            yield place, count


def content_bytes(node: Node) -> int:
    """Bytes that are copied for a node."""
    if not isinstance(node, File):
        return 0
    return node.size if node.segments is None else sum(segment.length for segment in node.segments)
