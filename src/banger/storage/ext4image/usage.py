"""Which blocks and inodes of each group are in use."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from ..ext4 import BLOCK_BYTES
from .layout import GROUP_BLOCKS, Layout, Run
from .nodes import Directory
from .plan import Plan, inode_number

_ALL: Final = (1 << GROUP_BLOCKS) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupUsage:
    """The bitmaps of a group, a block each, and what its descriptor counts."""

    blocks: bytes
    inodes: bytes
    free_blocks: int
    free_inodes: int
    directories: int


def group_usage(plan: Plan, total_blocks: int) -> list[GroupUsage]:
    """Of every group of an image of ``total_blocks``."""
    layout = plan.layout
    used = [0] * layout.groups
    _mark(used, [*layout.metadata, (layout.first_data_block, plan.end - layout.first_data_block)])
    counts = _directories(plan)
    return [_usage(layout, group, used[group], total_blocks, len(plan.nodes), counts[group]) for group in range(layout.groups)]


def _mark(used: list[int], runs: Iterable[Run]) -> None:
    for start, length in runs:
        for group in range(start // GROUP_BLOCKS, -(-(start + length) // GROUP_BLOCKS)):
            first = max(start, group * GROUP_BLOCKS)
            count = min(start + length, (group + 1) * GROUP_BLOCKS) - first
            used[group] |= ((1 << count) - 1) << first % GROUP_BLOCKS


def _usage(layout: Layout, group: int, used: int, total_blocks: int, nodes: int, directories: int) -> GroupUsage:
    blocks = min(GROUP_BLOCKS, total_blocks - group * GROUP_BLOCKS)
    highest = inode_number(nodes - 1)
    inodes = max(0, min(layout.inodes_per_group, highest - group * layout.inodes_per_group))
    return GroupUsage(
        blocks=_bitmap(used, blocks),
        inodes=_bitmap((1 << inodes) - 1, layout.inodes_per_group),
        free_blocks=blocks - used.bit_count(),
        free_inodes=layout.inodes_per_group - inodes,
        directories=directories,
    )


def _bitmap(used: int, size: int) -> bytes:
    """A block with a bit for each of ``size`` things; what is behind them counts as used."""
    return (used | _ALL >> size << size).to_bytes(BLOCK_BYTES, "little")


def _directories(plan: Plan) -> list[int]:
    counts = [0] * plan.layout.groups
    for place, node in enumerate(plan.nodes):
        if isinstance(node, Directory):
            counts[(inode_number(place) - 1) // plan.layout.inodes_per_group] += 1
    return counts
