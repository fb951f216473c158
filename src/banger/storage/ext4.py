"""Making ext4 file systems: always the same features, whatever /etc/mke2fs.conf says, and nothing left for the guest's kernel to initialise."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from ..host.files import STAGING_SUFFIX, explain_no_space, make_sparse, no_space
from ..host.run import run
from ..model.errors import BadRequest, CommandFailed
from ..model.sizes import format_size

BLOCK_BYTES: Final = 4096
INODE_BYTES: Final = 256
FEATURES: Final = "none,ext_attr,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum"
"""Explicit, so that a newer mke2fs does not give the guest a feature that its kernel lacks."""
PREZEROED: Final = "root_owner=0:0,lazy_itable_init=1,lazy_journal_init=1,assume_storage_prezeroed=1,nodiscard"
"""For a file that is one hole: nothing is written for empty tables, and the guest's kernel does not zero them later (mke2fs(8) of 1.47)."""
_FULL: Final = ("No space left on device", "Disk quota exceeded", "enough free space in")
"""How mke2fs, dpkg and apt say that a file system is full (strerror(3) in the C locale; apt's own words)."""
_NEXT_TO_NOTHING: Final = 256 * 1024


async def make_disk(path: Path, size: int, *, label: str, uid: int) -> None:
    """Make a sparse, empty ext4 of ``size`` bytes at ``path`` unless it is there, mode 0600, owned by ``uid`` (-1 = us).

    The caller holds the lock of the directory. Raises NoSpace, MissingTool, CommandFailed, or BadRequest when the file system below cannot
    hold so large a file; nothing half-made stays.
    """
    if path.exists():
        return
    what, staged = f"making {path.name}", staging_name(path)
    staged.unlink(missing_ok=True)
    try:
        with explain_no_space(what, path.parent), explain_full(what, path.parent):
            _make_file(staged, size)
            await make_filesystem(staged, "-O", f"{FEATURES},has_journal", "-i", "16384", "-L", label, "-E", PREZEROED, deadline=60)
            if uid >= 0:
                os.chown(staged, uid, uid)
            os.rename(staged, path)
    except BaseException:
        with contextlib.suppress(OSError):
            staged.unlink(missing_ok=True)
        raise


def remove_disk(path: Path) -> None:
    """Remove a disk, finished or half-made; success when there is none."""
    path.unlink(missing_ok=True)
    staging_name(path).unlink(missing_ok=True)


def staging_name(path: Path) -> Path:
    """Where ``path`` is made before it gets its name."""
    return path.with_name(path.name + STAGING_SUFFIX)


async def make_filesystem(file: Path, *options: str | Path, deadline: float, wrap: Callable[[list[str | Path]], list[str | Path]] = list) -> None:
    """Run mke2fs, as changed by ``wrap``, on ``file``, which has its final size. Raises MissingTool, CommandFailed."""
    words = wrap(["mke2fs", "-q", "-F", "-b", str(BLOCK_BYTES), "-I", str(INODE_BYTES), "-m", "0", *options, file])
    await run(words, deadline=deadline, env={"MKE2FS_CONFIG": os.devnull})


def says_full(output: str) -> bool:
    """Whether these words of a program mean that a file system is full."""
    return any(words in output for words in _FULL)


@contextlib.contextmanager
def explain_full(what: str, where: Path) -> Iterator[None]:
    """Turn the failure of a program that ran into a full file system below ``where`` into NoSpace."""
    try:
        yield
    except CommandFailed as error:
        # Some programs (lz4) do not say why they could not write.
        if says_full(error.message) or shutil.disk_usage(where).free < _NEXT_TO_NOTHING:
            raise no_space(what, where) from error
        raise


def _make_file(path: Path, size: int) -> None:
    try:
        make_sparse(path, size)
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise BadRequest(f"a disk of {format_size(size)} is larger than a file may be in {path.parent}") from error
        raise
