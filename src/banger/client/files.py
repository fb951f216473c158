"""A tree of the host as a tree stream. Links are never followed, except the top when asked for; memory stays flat but for the names of hard links."""

# Names are bytes here, which pathlib does not know:
# ruff: noqa: PTH115, PTH116, PTH118, PTH208

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from ..guest.tree_stream import END, Entry, Kind, encode_entry, encode_file_end, segment_header, small_file
from ..model.errors import BangerError

_PIECE: Final = 1024 * 1024
_XATTR_LIMIT: Final = 32 * 1024


def _ignore(_path: bytes, _why: str) -> None:
    """Nobody wants to know."""


@dataclass(slots=True, kw_only=True)
class TreeReader:
    """Reads host files. ``archive``: with their owners and extended attributes. ``on_skipped`` hears of what no stream can carry, and why."""

    archive: bool = False
    on_skipped: Callable[[bytes, str], None] = _ignore
    entries: int = 0
    size: int = 0
    """Bytes of content so far."""
    _links: dict[tuple[int, int], bytes] = field(default_factory=dict)

    def read(self, path: bytes, name: bytes, *, follow: bool = False) -> Iterator[bytes]:
        """The whole stream for what is at ``path``, called ``name`` in it (``.`` for what is in a directory, then ``follow`` is implied).

        Raises BangerError when something cannot be read.
        """
        yield from self._entry(path, name, follow=follow or name == b".")
        yield END

    def _entry(self, path: bytes, name: bytes, *, follow: bool = False) -> Iterator[bytes]:
        try:
            status = os.stat(path, follow_symlinks=follow)
            if stat.S_ISDIR(status.st_mode):
                yield from self._directory(path, name, status)
            elif stat.S_ISREG(status.st_mode):
                yield from self._regular(path, name, follow=follow)
            elif stat.S_ISLNK(status.st_mode):
                yield self._encoded(self._describe(Kind.SYMLINK, name, status, target=os.readlink(path)))
            else:
                self.on_skipped(path, _what_is(status.st_mode))
        except OSError as error:
            raise BangerError(f"cannot read {os.fsdecode(path)}: {error.strerror}", hint="nothing after it was copied: check its mode and its owner") from error

    def _directory(self, path: bytes, name: bytes, status: os.stat_result) -> Iterator[bytes]:
        yield self._encoded(self._describe(Kind.DIRECTORY, name, status, xattrs_of=path))
        prefix = b"" if name == b"." else name + b"/"
        for one in sorted(os.listdir(path)):
            try:
                yield from self._entry(os.path.join(path, one), prefix + one)
            except BangerError as error:
                if not isinstance(error.__cause__, FileNotFoundError):
                    raise
                self.on_skipped(os.path.join(path, one), "it went away")

    def _regular(self, path: bytes, name: bytes, *, follow: bool) -> Iterator[bytes]:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW))
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                self.on_skipped(path, "it became something else")
                return
            known = self._links.setdefault((status.st_dev, status.st_ino), name) if status.st_nlink > 1 else name
            if known != name:
                yield self._encoded(Entry(kind=Kind.HARDLINK, path=name, target=known))
                return
            entry = self._describe(Kind.REGULAR, name, status, size=status.st_size, xattrs_of=fd)
            yield from self._content(fd, entry, sparse=status.st_blocks * 512 < status.st_size)
        finally:
            os.close(fd)

    def _content(self, fd: int, entry: Entry, *, sparse: bool) -> Iterator[bytes]:
        if entry.size < _PIECE and not sparse:
            content = os.read(fd, entry.size) if entry.size else b""
            if len(content) == entry.size:
                self.entries += 1
                self.size += len(content)
                yield _checked(lambda: small_file(entry, content), entry)
                return
            os.lseek(fd, 0, os.SEEK_SET)
        yield self._encoded(entry)
        at = 0
        for start, end in _extents(fd, entry.size, sparse=sparse):
            at = start
            while at < end and (piece := os.pread(fd, min(_PIECE, end - at), at)):
                yield segment_header(at, len(piece))
                yield piece
                at += len(piece)
                self.size += len(piece)
            if at < end:  # it became shorter
                yield encode_file_end(at)
                return
        yield encode_file_end(entry.size)

    def _describe(self, kind: Kind, name: bytes, status: os.stat_result, *, size: int = 0, target: bytes = b"", xattrs_of: int | bytes | None = None) -> Entry:
        return Entry(
            kind=kind,
            path=name,
            mode=stat.S_IMODE(status.st_mode),
            uid=status.st_uid if self.archive else None,
            gid=status.st_gid if self.archive else None,
            mtime_ns=status.st_mtime_ns,
            size=size,
            target=target,
            xattrs=_xattrs(xattrs_of) if self.archive and xattrs_of is not None else (),
        )

    def _encoded(self, entry: Entry) -> bytes:
        self.entries += 1
        return _checked(lambda: encode_entry(entry), entry)


def _checked(encode: Callable[[], bytes], entry: Entry) -> bytes:
    try:
        return encode()
    except ValueError as error:
        raise BangerError(f"cannot copy {os.fsdecode(entry.path[:200])}: its path or its attributes are too long") from error


def _extents(fd: int, size: int, *, sparse: bool) -> Iterator[tuple[int, int]]:
    """Where a file has data, as (start, end)."""
    if not sparse:
        yield 0, size
        return
    at = 0
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return
        at = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        if start < at:
            yield start, at


def _xattrs(of: int | bytes) -> tuple[tuple[str, bytes], ...]:
    """Those of users, and file capabilities."""
    try:
        names = [name for name in os.listxattr(of) if name.startswith("user.") or name == "security.capability"]
        pairs = tuple((name, os.getxattr(of, name)) for name in names)
    except OSError:
        return ()
    return pairs if sum(len(name) + len(value) for name, value in pairs) <= _XATTR_LIMIT else ()


def _what_is(mode: int) -> str:
    return "a socket" if stat.S_ISSOCK(mode) else "a fifo" if stat.S_ISFIFO(mode) else "a device"
