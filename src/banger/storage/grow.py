"""Growing ext4 disks that no machine uses: all or nothing, also when the host's disk is full or we die in the middle.

The tools read a file system that a guest has written, so they run as the disk's own uid. They get the disk as a descriptor that holds its lock:
one that outlives a dead daemon keeps the next one waiting.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

from ..host.files import explain_no_space, no_space
from ..host.locks import try_lock
from ..host.run import run
from ..model.errors import BadRequest, BangerError
from ..model.sizes import MIB, format_size
from .ext4 import explain_full

log = logging.getLogger(__name__)

_DEADLINE: Final = 600.0
_SPARE_BYTES: Final = 16 * MIB
_GROWTH_PER_BYTE: Final = 8192
"""For each so many bytes of growth one of metadata and undo file: a tenth of that was seen."""
_CORRECTED: Final = 1
"""Exit status of e2fsck when it has repaired something and all is well (e2fsck(8))."""


async def grow_disk(path: Path, size: int, *, uid: int) -> None:
    """Make the ext4 in ``path`` at least ``size`` bytes large; success when it is, or when there is no disk yet.

    ``uid`` owns the disk (-1 = us). The caller knows that no machine uses it. Raises NoSpace, MissingTool, CommandFailed, or BadRequest when the file
    system below cannot hold so large a file; the disk is as it was then.
    """
    if not path.exists():
        return
    what = f"growing {path.name}"
    with explain_no_space(what, path.parent), explain_full(what, path.parent):
        async with _held(path) as disk:
            await _take_back(path, disk, uid)
            old = os.fstat(disk).st_size
            _require_room(what, path.parent, size - old)
            await _check(disk, uid)
            try:
                if old < size:
                    _lengthen(disk, size, path)
                await _resize(path, disk, uid)
            except BaseException:
                await asyncio.shield(_give_up(path, disk, old, uid))
                raise


async def settle_disk(path: Path, *, uid: int) -> None:
    """Take back a growth that was cut short; success when there was none. To be called before a machine gets the disk."""
    if undo_file(path).exists():
        async with _held(path) as disk:
            await _take_back(path, disk, uid)


def undo_file(path: Path) -> Path:
    """What a growth of ``path`` overwrote; there while it is under way, or after it was cut short."""
    return path.with_name(f"{path.name}.undo")


@asynccontextmanager
async def _held(path: Path) -> AsyncIterator[int]:
    """The disk as a locked descriptor."""
    while (disk := try_lock(path)) is None:  # noqa: ASYNC110 - nobody tells when another process lets go of a flock
        await asyncio.sleep(0.05)
    try:
        yield disk
    finally:
        os.close(disk)


def _lengthen(disk: int, size: int, path: Path) -> None:
    try:
        os.ftruncate(disk, size)
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise BadRequest(f"a disk of {format_size(size)} is larger than a file may be in {path.parent}") from error
        raise


def _require_room(what: str, where: Path, growth: int) -> None:
    """resize2fs that runs out of space in the middle leaves damage that its undo file, which runs out too, does not cover: measured."""
    if shutil.disk_usage(where).free < _SPARE_BYTES + growth // _GROWTH_PER_BYTE:
        raise no_space(what, where)


async def _check(disk: int, uid: int) -> None:
    await run(["e2fsck", "-f", "-p", _name(disk)], deadline=_DEADLINE, allowed=(0, _CORRECTED), pass_fds=(disk,), uid=uid)


async def _resize(path: Path, disk: int, uid: int) -> None:
    with _undo_log(path, os.O_CREAT | os.O_EXCL, uid) as undo:
        await run(["resize2fs", "-z", _name(undo), _name(disk)], deadline=_DEADLINE, pass_fds=(disk, undo), uid=uid)
    os.fsync(disk)
    undo_file(path).unlink()


async def _take_back(path: Path, disk: int, uid: int) -> None:
    """Restore what an unfinished growth overwrote: all of it, for resize2fs writes to the undo file first."""
    if not undo_file(path).exists():
        return
    log.info("taking back a growth that was cut short", extra={"disk": str(path)})
    if undo_file(path).stat().st_size:
        with _undo_log(path, 0, uid) as undo:
            await run(["e2undo", "-f", _name(undo), _name(disk)], deadline=_DEADLINE, pass_fds=(disk, undo), uid=uid)
        await _check(disk, uid)
        os.fsync(disk)
    undo_file(path).unlink()


async def _give_up(path: Path, disk: int, size: int, uid: int) -> None:
    """The disk as it was. What fails here is tried again before the disk is used (``settle_disk``)."""
    try:
        await _take_back(path, disk, uid)
        os.ftruncate(disk, size)
    except (BangerError, OSError):
        log.exception("a failed growth could not be taken back yet", extra={"disk": str(path)})


@contextmanager
def _undo_log(path: Path, flags: int, uid: int) -> Iterator[int]:
    fd = os.open(undo_file(path), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | flags, 0o600)
    try:
        if uid >= 0:
            os.fchown(fd, uid, uid)
        yield fd
    finally:
        with contextlib.suppress(OSError):
            os.close(fd)


def _name(fd: int) -> str:
    """How the tool opens a descriptor that it inherits: the file itself, whatever the directories above it allow."""
    return f"/proc/self/fd/{fd}"
