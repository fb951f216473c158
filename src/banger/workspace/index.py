"""git's index: what the user's says, and new ones in git's own format (gitformat-index(5), versions 2 and 3), so that a guest needs no git to get one."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable
from typing import Final

import msgspec

from .repository import Repository

REGULAR: Final = 0o100644
EXECUTABLE: Final = 0o100755
SYMLINK: Final = 0o120000
GITLINK: Final = 0o160000

_HEAD: Final = struct.Struct(">4sII")
_STAT: Final = struct.Struct(">10I")
_FLAGS: Final = struct.Struct(">H")
_MAX_NAME: Final = 0xFFF
_EXTENDED: Final = 0x4000
_SKIP_WORKTREE: Final = 0x4000
_INTENT_TO_ADD: Final = 0x2000
_U32: Final = 0xFFFFFFFF
_OURS: Final = 2


class IndexEntry(msgspec.Struct, frozen=True, gc=False):
    """One path. ``mtime`` (seconds) and ``size`` are 0 when git has to look at the file itself."""

    path: bytes
    mode: int
    oid: str
    skip: bool = False
    """Not in the working tree on purpose (sparse checkout)."""
    intent: bool = False
    """Not added yet, but meant to be (``git add -N``); it has the name of an empty blob."""
    mtime: int = 0
    size: int = 0


class UserIndex(msgspec.Struct, frozen=True):
    """The user's index. Of a path in conflict, ours."""

    entries: dict[bytes, IndexEntry]
    unmerged: frozenset[bytes]
    digest: str
    """Changes when the content does."""


def read_index(repository: Repository) -> UserIndex:
    """What ``repository`` tracks."""
    listing = repository.git.output("ls-files", "-z", "-t", "--stage")
    entries: dict[bytes, IndexEntry] = {}
    unmerged: set[bytes] = set()
    intended = _intended(repository) if _empty_blob(repository.object_format) in listing else frozenset()
    for line in listing.split(b"\0")[:-1]:
        words, _, path = line.partition(b"\t")
        tag, mode, oid, stage = words.split(b" ")
        if stage != b"0":
            unmerged.add(path)
            if int(stage) != _OURS:
                continue
        entries[path] = IndexEntry(path, int(mode, 8), oid.decode(), tag == b"S", path in intended)
    return UserIndex(entries, frozenset(unmerged), hashlib.sha256(b"\0".join((listing, *sorted(intended)))).hexdigest())


def _empty_blob(object_format: str) -> bytes:
    return hashlib.new(object_format, b"blob 0\0", usedforsecurity=False).hexdigest().encode()


def _intended(repository: Repository) -> frozenset[bytes]:
    """Entries that ``git add -N`` made: what git calls new in the working tree although the index names it."""
    return frozenset(repository.git.output("diff-files", "-z", "--name-only", "--diff-filter=A", "--no-renames", "--ignore-submodules=all").split(b"\0")[:-1])


def encode_index(entries: Iterable[IndexEntry], object_format: str) -> bytes:
    """The index file with these entries."""
    ordered = sorted(entries, key=lambda entry: entry.path)
    extended = any(entry.skip or entry.intent for entry in ordered)
    parts = [_HEAD.pack(b"DIRC", 3 if extended else 2, len(ordered))]
    parts += [_encode(entry) for entry in ordered]
    content = b"".join(parts)
    return content + hashlib.new(object_format, content, usedforsecurity=False).digest()


def _encode(entry: IndexEntry) -> bytes:
    mtime = entry.mtime if 0 <= entry.mtime <= _U32 else 0
    stat = _STAT.pack(0, 0, mtime, 0, 0, 0, entry.mode, 0, 0, entry.size & _U32 if mtime else 0)
    flags = min(len(entry.path), _MAX_NAME)
    more = _SKIP_WORKTREE * entry.skip | _INTENT_TO_ADD * entry.intent
    tail = _FLAGS.pack(flags | _EXTENDED) + _FLAGS.pack(more) if more else _FLAGS.pack(flags)
    record = stat + bytes.fromhex(entry.oid) + tail + entry.path
    return record + bytes(8 - len(record) % 8)
