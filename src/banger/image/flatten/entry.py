"""What a tar archive says of one file."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from ...storage.ext4image.nodes import Segment


class Kind(Enum):
    """What an entry makes."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    HARDLINK = "hardlink"
    CHARACTER = "character device"
    BLOCK = "block device"
    FIFO = "fifo"


class Entry(NamedTuple):
    """One entry, decoded but not yet judged: names are as they stand in the archive. A tuple, for there are very many."""

    name: bytes
    kind: Kind
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int
    """Apparent size of a regular file; 0 for everything else."""
    offset: int
    """Where the content begins in the uncompressed archive."""
    link: bytes
    """Target of a symbolic or hard link."""
    device: tuple[int, int]
    """Major and minor."""
    xattrs: tuple[tuple[bytes, bytes], ...]
    segments: tuple[Segment, ...] | None
    """Of a sparse file; ``source_offset`` counts in the uncompressed archive."""
