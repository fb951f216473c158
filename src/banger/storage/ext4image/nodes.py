"""What a tree is made of. One object that stands in several directories is one inode with several names: a hard link."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple


class Attributes(NamedTuple):
    """What every kind of node has. A tuple, for there are as many as files."""

    mode: int
    """Permission bits, 0..07777."""
    uid: int
    gid: int
    mtime_ns: int
    """Nanoseconds since 1970, also negative; what ext4 cannot say (before 1901, after 2310) becomes the nearest that it can."""
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    """Full name (``security.capability``) and value as getxattr(2) gives it, each name once."""


class Segment(NamedTuple):
    """A piece of a sparse file that has data."""

    offset: int
    """In the file."""
    source_offset: int
    """In the descriptor it is copied from."""
    length: int


@dataclass(frozen=True, slots=True)
class File:
    """A regular file. Its content is copied from a descriptor of the caller's, who keeps it open and unchanged meanwhile."""

    attributes: Attributes
    size: int
    source: int = -1
    source_offset: int = 0
    segments: tuple[Segment, ...] | None = None
    """None = all of ``size`` bytes from ``source_offset``; else in ascending order, without overlap, within ``size``; the rest is holes."""


@dataclass(frozen=True, slots=True)
class Symlink:
    """A symbolic link; ``target`` has 1..4095 bytes."""

    attributes: Attributes
    target: bytes


@dataclass(frozen=True, slots=True)
class Device:
    """A device node; ``major`` below 4096, ``minor`` below 2**20."""

    attributes: Attributes
    major: int
    minor: int
    block: bool


@dataclass(frozen=True, slots=True)
class Fifo:
    """A named pipe."""

    attributes: Attributes


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory; names have 1..255 bytes without ``/`` and NUL."""

    attributes: Attributes
    children: Mapping[bytes, Node] = field(default_factory=dict)


Node = File | Symlink | Device | Fifo | Directory


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSize:
    """What was written."""

    size_bytes: int
    """Of the image file."""
    content_bytes: int
    """Of the regular files, without holes."""
    inodes: int
    """Of the tree, each hard link group once."""
    digest: str
    """``sha256:<hex>`` of the image file."""
