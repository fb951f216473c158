"""Cpio archives in the "newc" format that Linux unpacks at boot (Documentation/driver-api/early-userspace/buffer-format.rst)."""

from __future__ import annotations

import stat
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

_ALIGNMENT: Final = 4
_TRAILER: Final = "TRAILER!!!"


@dataclass(frozen=True, slots=True)
class Entry:
    """A member of an archive; belongs to root, time 0. ``path`` has no leading slash, ``mode`` includes the file type."""

    path: str
    mode: int
    content: bytes = b""
    device: tuple[int, int] = (0, 0)
    """Major and minor number of a device node."""


def directory(path: str, mode: int = 0o755) -> Entry:
    """An empty directory; its parents must come before it."""
    return Entry(path, stat.S_IFDIR | mode)


def regular(path: str, content: bytes, mode: int = 0o644) -> Entry:
    """A regular file."""
    return Entry(path, stat.S_IFREG | mode, content)


def character_device(path: str, major: int, minor: int, mode: int = 0o600) -> Entry:
    """A character device node."""
    return Entry(path, stat.S_IFCHR | mode, device=(major, minor))


def archive(entries: Iterable[Entry]) -> bytes:
    """The archive: the same entries in the same order give the same bytes."""
    parts: list[bytes] = []
    for inode, entry in enumerate(entries, start=1):
        parts += _member(inode, entry)
    parts += _member(0, Entry(_TRAILER, 0))
    return b"".join(parts)


def _member(inode: int, entry: Entry) -> tuple[bytes, ...]:
    name = entry.path.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    numbers = (inode, entry.mode, 0, 0, links, 0, len(entry.content), 0, 0, *entry.device, len(name), 0)
    head = b"070701" + b"".join(b"%08X" % number for number in numbers) + name
    return head, _padding(len(head)), entry.content, _padding(len(entry.content))


def _padding(size: int) -> bytes:
    return bytes(-size % _ALIGNMENT)
