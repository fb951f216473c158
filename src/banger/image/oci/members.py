"""Files of an image that lies on this host: in a directory, or as members of a tar archive, which nothing is unpacked from.

What an archive says is not believed: names and links stay inside it, and no header makes us read much.
"""

from __future__ import annotations

import os
import posixpath
import stat
import tarfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO, Final, Protocol, cast

from ...host.threads import run_to_end
from ...model.errors import BangerError, NotFound
from .partial import Partial

_MEMBER_LIMIT: Final = 20_000
_HEADER_LIMIT: Final = 1024 * 1024
_LINK_LIMIT: Final = 8
_BLOCK: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Extent:
    """Bytes of an open file."""

    fd: int
    start: int
    size: int

    def read(self, at: int, count: int) -> bytes:
        """Up to ``count`` bytes from ``at`` on."""
        return os.pread(self.fd, max(0, min(count, self.size - at)), self.start + at)


class Members(Protocol):
    """Regular files by name."""

    def opened(self, name: str) -> AbstractContextManager[Extent]:
        """The file, open for as long as the block lasts. Raises NotFound."""


class DirectoryMembers:
    """Files below a directory. Names are our own, or made of a checked digest."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @contextmanager
    def opened(self, name: str) -> Iterator[Extent]:
        """The file, open for as long as the block lasts. Raises NotFound, also for what is no regular file."""
        path = self._root / name
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe must not stop us
        except OSError as error:
            raise NotFound(f"{path} cannot be read: {error.strerror}") from error
        try:
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode):
                raise NotFound(f"{path} is not a file")
            yield Extent(fd, 0, info.st_size)
        finally:
            os.close(fd)


class TarMembers:
    """Members of an uncompressed tar archive, found by one pass over its headers."""

    def __init__(self, file: BinaryIO, where: str) -> None:
        """Raises BangerError when it is no tar archive. ``file`` stays the caller's."""
        self._file = file
        self._where = where
        self._members = {_normal(member.name): member for member in _headers(file, where)}

    def has(self, name: str) -> bool:
        """Whether there is a member of this name, of whatever type."""
        return _normal(name) in self._members

    @contextmanager
    def opened(self, name: str) -> Iterator[Extent]:
        """The member, or what it links to inside the archive. Raises NotFound."""
        member = self._follow(name)
        yield Extent(self._file.fileno(), member.offset_data, member.size)

    def _follow(self, name: str) -> tarfile.TarInfo:
        path = _normal(name)
        for _ in range(_LINK_LIMIT):
            member = self._members.get(path)
            if member is not None and member.isreg() and not member.issparse():
                return member
            if member is not None and member.issym():
                path = _normal(posixpath.join(posixpath.dirname(path), member.linkname))
            elif member is not None and member.islnk():
                path = _normal(member.linkname)
            else:
                break
        raise NotFound(f"{self._where} has no file {name!r}", hint="is the archive complete?")


class _BoundedReads:
    """What tarfile reads from: it takes the length of long names from the archive, so ours is a limit on each read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, count: int = -1) -> bytes:
        if not 0 <= count <= _HEADER_LIMIT:
            raise tarfile.ReadError("a header is too large")
        return self._file.read(count)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


def _headers(file: BinaryIO, where: str) -> Iterator[tarfile.TarInfo]:
    """All headers. tarfile answers strange archives with exceptions of many kinds: all mean the same here."""
    try:
        with tarfile.open(fileobj=cast(IO[bytes], _BoundedReads(file)), mode="r:", errorlevel=0) as archive:
            for count, member in enumerate(archive):
                if count >= _MEMBER_LIMIT:
                    raise tarfile.ReadError(f"it has more than {_MEMBER_LIMIT} members")
                yield member
    except (tarfile.TarError, ValueError, IndexError, KeyError, OverflowError, RecursionError, EOFError, OSError) as error:
        raise BangerError(f"{where} is not a tar archive of an image: {error}", hint="make it with docker save or skopeo copy") from error


def _normal(name: str) -> str:
    """The name from the archive's top, where ``..`` ends: nothing is above it."""
    return posixpath.normpath("/" + name).lstrip("/")


async def copy(extent: Extent, partial: Partial) -> None:
    """Bring the rest of a blob. Raises BangerError when the file is shorter than it was."""
    while partial.offset < extent.size:
        block = await run_to_end(extent.read, partial.offset, _BLOCK)
        if not block:
            raise BangerError("a file of the image ends early", hint="is it still being written?")
        await partial.write(block)
