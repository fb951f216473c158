"""Files of this host: the tar of a root file system, or a finished ext4."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from ...host.files import sha256_of
from ...host.run import run
from ...model.progress import Report
from ...storage.ext4 import explain_full
from ..ext4_file import check_ext4
from ..flatten.limits import Limits
from ..flatten.pipeline import flatten_tar
from .names import name_of_file
from .protocol import ROOTFS, STAGE, Made

_COPY_DEADLINE = 3600.0


def file_revision(path: Path) -> str:
    """What changes with the file. Raises OSError."""
    info = path.stat()
    return f"file:{info.st_dev}:{info.st_ino}:{info.st_size}:{info.st_mtime_ns}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """A file that is known by its path."""

    path: Path
    kernel: str

    @property
    def origin(self) -> str:
        return f"file:{self.path}"

    @property
    def name(self) -> str:
        return name_of_file(self.path)

    @property
    def reference(self) -> str:
        return str(self.path)

    async def revision(self, report: Report) -> str:
        """Raises OSError."""
        return file_revision(self.path)


@dataclass(frozen=True, slots=True, kw_only=True)
class TarSource(_File):
    """A tar of a root file system, perhaps compressed with gzip, zstd or xz."""

    async def make(self, staging: Path, report: Report) -> Made:
        """Raises BadRequest for an archive that must not be unpacked, NoSpace."""
        revision = file_revision(self.path)
        flattened = await flatten_tar(self.path, staging / ROOTFS, staging, limits=Limits(), report=report)
        return Made(digest=flattened.digest, revision=revision, facts={"entries": flattened.entries})


@dataclass(frozen=True, slots=True, kw_only=True)
class Ext4Source(_File):
    """A finished file system, which is copied; or with ``link`` used where it lies."""

    link: bool = False

    async def make(self, staging: Path, report: Report) -> Made:
        """Raises BadRequest when it is no sound ext4, NoSpace."""
        revision, rootfs = file_revision(self.path), staging / ROOTFS
        report(STAGE, f"checking {self.path.name}")
        await check_ext4(self.path)
        if self.link:
            rootfs.symlink_to(self.path)
        else:
            await copy_file(self.path, rootfs, report)
        report(STAGE, "computing its digest")
        return Made(digest=await asyncio.to_thread(sha256_of, rootfs), revision=revision)


async def copy_file(source: Path, target: Path, report: Report) -> None:
    """Copy a file with its holes, sharing blocks where the file system can; mode 0644. Raises NoSpace, CommandFailed."""
    report(STAGE, f"copying {source.name}")
    with explain_full(f"copying {source}", target.parent):
        await run(["cp", "--reflink=auto", "--sparse=always", "--", source, target], deadline=_COPY_DEADLINE)
    target.chmod(0o644)
