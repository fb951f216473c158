"""Crash-safe files: a recognisable temporary name, fsync, rename; sparse files; sizes."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from ..model.errors import NoSpace

STAGING_SUFFIX: Final = ".staging"
"""Everything half-made ends so, and may be removed by whoever holds the lock of its directory."""


def write_atomically(path: Path, content: bytes, *, mode: int = 0o600, durable: bool = True) -> None:
    """Replace ``path`` by ``content`` in one step that survives a crash, also of the host if ``durable``; on failure the old content stays."""
    staged = path.with_name(f"{path.name}.{secrets.token_hex(4)}{STAGING_SUFFIX}")
    try:
        fd = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(fd, "wb") as file:
            os.fchmod(fd, mode)  # whatever the umask says
            file.write(content)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.rename(staged, path)
    except BaseException:
        with contextlib.suppress(OSError):
            staged.unlink()
        raise
    if durable:
        sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make renames inside ``path`` durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_file(path: Path) -> None:
    """Make the content of a file durable."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def publish_directory(staged: Path, final: Path) -> None:
    """Rename a finished staging directory into place, durably."""
    sync_directory(staged)
    os.rename(staged, final)
    sync_directory(final.parent)


def remove_tree(path: Path) -> None:
    """Remove a directory tree (or nothing), of one file system: what is mounted in it is somebody else's. Raises OSError when something resists."""
    from .mounts import mounts_in  # needs asyncio, which the command line has no use for

    if mounts := mounts_in(path):
        raise OSError(errno.EBUSY, "something is mounted there, unmount it first", str(mounts[0]))
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(path)


def make_sparse(path: Path, size: int, *, mode: int = 0o600) -> None:
    """Make a sparse file of ``size`` bytes; raises FileExistsError when there is one."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        os.ftruncate(fd, size)
    finally:
        os.close(fd)


def allocated_bytes(path: Path) -> int:
    """Bytes that the file really takes on the disk; 0 when there is none."""
    try:
        return path.stat().st_blocks * 512
    except FileNotFoundError:
        return 0


@contextmanager
def open_regular(path: Path) -> Iterator[BinaryIO]:
    """A regular file for reading. Raises OSError for anything else: a FIFO or a device could keep us waiting for ever."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        yield file


def tail(path: Path, size: int = 2000) -> str:
    """The last ``size`` bytes of a text file, "" when there is none. Control characters but newline and tab are replaced: it may be a guest's console."""
    try:
        with open_regular(path) as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - size))
            raw = file.read(size)
    except OSError:
        return ""
    text = raw.decode(errors="replace").replace("\r\n", "\n")
    return "".join(c if c in "\n\t" or c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def bound_log(path: Path, limit: int) -> None:
    """Empty a log that has grown beyond ``limit`` bytes. For a log whose writer appends (O_APPEND), which may go on writing meanwhile."""
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size > limit:
            os.truncate(path, 0)


def sha256_of(path: Path) -> str:
    """``sha256:<hex>`` of a file's content."""
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def explain_no_space(what: str, where: Path) -> Iterator[None]:
    """Turn ENOSPC and EDQUOT into NoSpace that names the file system and what it was for."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise no_space(what, where) from error
        raise


def no_space(what: str, where: Path) -> NoSpace:
    """The error for a full file system."""
    existing = next(p for p in (where, *where.parents) if p.exists())
    free = shutil.disk_usage(existing).free // (1024 * 1024)
    return NoSpace(f"no space left while {what} in {where} ({free} MiB free)", hint="free some space there, or set BANGER_HOME to a larger file system")
