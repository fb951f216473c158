"""File locks between processes."""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path


def try_lock(path: Path) -> int | None:
    """Take an exclusive flock on ``path`` (made if missing) and return its descriptor, which holds the lock until closed; None when another process has it."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    except BaseException:
        os.close(fd)
        raise
    return fd


def is_at(fd: int, path: Path) -> bool:
    """Whether the locked file still has its name: its last holder may have renamed or removed it while we waited."""
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


def try_passing_lock(path: Path) -> int | None:
    """As ``try_lock``, for a file that its holder removes (``drop_lock``): one that has gone meanwhile locks nothing."""
    fd = try_lock(path)
    if fd is not None and not is_at(fd, path):
        os.close(fd)
        return None
    return fd


def drop_lock(path: Path, fd: int) -> None:
    """Let go of a lock of ``try_passing_lock`` and leave no file behind: removed while it is held, so nobody can hold another file of its name."""
    path.unlink(missing_ok=True)
    os.close(fd)


@contextmanager
def locked(path: Path, *, deadline: float) -> Iterator[None]:
    """Hold an exclusive flock on ``path``; raises TimeoutError after ``deadline`` seconds of waiting."""
    until = time.monotonic() + deadline
    while (fd := try_lock(path)) is None:
        if time.monotonic() > until:
            raise TimeoutError(f"{path} is locked by another process")
        time.sleep(0.02)
    try:
        yield
    finally:
        os.close(fd)


@asynccontextmanager
async def locked_async(path: Path) -> AsyncIterator[None]:
    """Hold an exclusive flock on ``path``, waiting cancellably for as long as it takes; the file goes with the lock."""
    while (fd := try_passing_lock(path)) is None:  # noqa: ASYNC110 - nobody tells when another process lets go of a flock
        await asyncio.sleep(0.1)
    try:
        yield
    finally:
        drop_lock(path, fd)
