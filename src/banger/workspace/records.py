"""What is sent to a guest: the records of a tree, in order."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Kind = Literal["directory", "regular", "symlink", "remove", "prune"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One file as it shall be, ``remove`` for a path that shall not be, or ``prune`` for a directory that shall not be when it is empty.

    ``path`` is relative to the destination. Links that the guest has made there are never followed.
    """

    kind: Kind
    path: bytes
    mode: int = 0
    mtime_ns: int = 0
    size: int = 0
    target: bytes = b""
    """Of a symlink."""
    content: Iterable[bytes] = ()
    """Of a regular file: exactly ``size`` bytes."""


def directory(path: bytes, mode: int = 0o755) -> Record:
    """A directory; one that is there stays."""
    return Record(kind="directory", path=path, mode=mode, mtime_ns=time.time_ns())


def regular(path: bytes, content: bytes, mode: int = 0o644) -> Record:
    """A file of our own making."""
    return Record(kind="regular", path=path, mode=mode, mtime_ns=time.time_ns(), size=len(content), content=(content,))


def remove(path: bytes) -> Record:
    """Nothing shall be there."""
    return Record(kind="remove", path=path)


def prune(path: bytes) -> Record:
    """No empty directory shall be there."""
    return Record(kind="prune", path=path)
