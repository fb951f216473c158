"""Arithmetic of the layout, extent trees and bitmaps, without writing anything."""

from __future__ import annotations

import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from banger.storage.ext4image import extents
from banger.storage.ext4image.layout import GROUP_BLOCKS, Layout, fit, has_copy
from banger.storage.ext4image.nodes import Attributes, File, Segment

ATTRIBUTES = Attributes(0o644, 0, 0, 0)


@given(st.integers(0, 2**28), st.integers(0, 2_000_000))
def test_everything_has_a_place_of_its_own(data_blocks: int, nodes: int) -> None:
    layout = fit(data_blocks, nodes)
    runs = [run for run in layout.metadata if run[0] < layout.first_data_block]
    assert all(start + length <= following for (start, length), (following, _) in pairwise(runs))
    end = layout.end_of(layout.first_data_block, data_blocks)
    assert layout.groups - 1 < layout.size_blocks(end) / GROUP_BLOCKS <= layout.groups
    assert layout.inodes_per_group * layout.groups >= nodes + 11
    assert layout.inodes_per_group <= GROUP_BLOCKS
    last_copy, length = layout.copies[-1]
    assert last_copy + length <= layout.size_blocks(end)


@given(st.integers(1, 400), st.integers(0, 10_000_000), st.integers(0, 500_000))
def test_runs_go_around_the_copies(groups: int, cursor: int, count: int) -> None:
    layout = Layout(groups, groups * 16)
    runs = list(layout.runs(cursor, count))
    assert sum(length for _, length in runs) == count
    for start, length in runs:
        assert length > 0
        assert start >= cursor
        assert not any(start < copy + size and copy < start + length for copy, size in layout.copies)
    assert layout.end_of(cursor, count) == (sum(runs[-1]) if runs else cursor)
    assert layout.place(cursor, 1) == next(layout.runs(cursor, 1))[0]


def test_which_groups_have_copies() -> None:
    assert [group for group in range(130) if has_copy(group)] == [0, 1, 3, 5, 7, 9, 25, 27, 49, 81, 125]


@pytest.mark.parametrize(
    ("count", "blocks", "depth"), [(0, 0, 0), (4, 0, 0), (5, 1, 1), (340, 1, 1), (341, 2, 1), (1360, 4, 1), (1361, 6, 2), (200_000, 591, 2)]
)
def test_trees(count: int, blocks: int, depth: int) -> None:
    assert extents.tree_blocks(count) == blocks
    root, written = extents.encode([(2 * number, 1000 + number, 1) for number in range(count)], range(500, 500 + blocks))
    assert len(written) == blocks
    magic, entries, room, found_depth = struct.unpack_from("<HHHH", root)
    assert (magic, room, found_depth, len(root)) == (0xF30A, 4, depth, 60)
    assert entries <= 4
    assert sum(struct.unpack_from("<HHHH", block)[1] for block in written if struct.unpack_from("<HHHH", block)[3] == 0) == (count if depth else 0)


def test_long_runs_are_cut() -> None:
    assert extents.map_pieces([(0, 70_000)], iter([(100, 70_000)])) == [(0, 100, 32768), (32768, 32868, 32768), (65536, 65636, 4464)]
    assert extents.map_pieces([(0, 3), (9, 2)], iter([(100, 4), (200, 1)])) == [(0, 100, 3), (9, 103, 1), (10, 200, 1)]


def test_pieces_of_sparse_files() -> None:
    segments = (Segment(0, 0, 1), Segment(100, 1, 1), Segment(4096 * 2 - 1, 2, 2), Segment(4096 * 9, 4, 0), Segment(4096 * 10, 4, 4096))
    assert extents.pieces(File(ATTRIBUTES, 2**20, -1, 0, segments)) == [(0, 3), (10, 1)]
    assert extents.pieces(File(ATTRIBUTES, 4097)) == [(0, 2)]
    assert extents.pieces(File(ATTRIBUTES, 0)) == []
