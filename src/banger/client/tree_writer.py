"""A tree stream from a guest becomes files of the host. The guest is not trusted: nothing is made, changed or removed outside of the destination.

Every directory is opened by its name in the one above it, without following links; a file is written without a name, or under a temporary one,
and gets its own when it is complete. Setuid and setgid bits are dropped: what a guest made must not run as somebody else here.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Final

from ..guest.tree_stream import Content, Entry, Event, FileEnd, Kind, TreeDecoder
from ..model.errors import BangerError, GuestError, NoSpace

_MODE_MASK: Final = 0o1777
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_WRITE: Final = os.O_WRONLY | os.O_CLOEXEC
_DEPTH_MAX: Final = 256


@dataclass(slots=True)
class _Pending:
    """The regular file whose content comes."""

    entry: Entry
    parent: int
    name: bytes
    fd: int
    temporary: bytes
    """"" while it has no name at all."""
    end: int = 0


@dataclass(frozen=True, slots=True)
class _Open:
    """A directory that the stream is in."""

    path: bytes
    fd: int
    entry: Entry | None
    """What it shall be like once the stream has left it."""


class TreeWriter:
    """Makes files beneath the directory ``destination``. ``archive``: with their owners and extended attributes. Use it in a ``with`` statement."""

    def __init__(self, destination: bytes, *, archive: bool = False) -> None:
        """Raises BangerError when the destination cannot be opened."""
        self._archive = archive
        self._pending: _Pending | None = None
        self.entries = 0
        self.size = 0
        self.not_given = 0
        """Files that could not be given to their owners."""
        try:
            top = os.open(destination, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise BangerError(f"cannot write to {os.fsdecode(destination)}: {error.strerror}", hint="name another directory, or check its mode") from error
        self._open = [_Open(b"", top, None)]

    def __enter__(self) -> TreeWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._give_up()
        while self._open:
            os.close(self._open.pop().fd)

    def write(self, chunks: Iterable[bytes | memoryview]) -> None:
        """Make what a whole stream describes. Raises GuestError when it is not one, NoSpace or BangerError when a file cannot be made."""
        decoder = TreeDecoder()
        for untrusted in chunks:
            for event in decoder.feed(untrusted):
                self._take(event)
        decoder.finish()
        while len(self._open) > 1:
            self._leave()

    def _take(self, event: Event) -> None:
        path = event.path if isinstance(event, Entry) else self._pending.entry.path if self._pending else b"."
        try:
            if isinstance(event, Entry):
                self._make(event)
            elif isinstance(event, Content):
                self._store(event)
            elif isinstance(event, FileEnd):
                self._finish(event.size)
        except OSError as error:
            kind = NoSpace if error.errno in (errno.ENOSPC, errno.EDQUOT) else BangerError
            raise kind(f"cannot write {os.fsdecode(path)}: {_why(error)}") from error

    # -- places --------------------------------------------------------------------------------------------------------------------------------

    def _parent_of(self, path: bytes) -> tuple[int, bytes]:
        """The open directory that holds ``path`` and the last part of it; directories that the stream has left are finished."""
        above, _, name = path.rpartition(b"/")
        while self._open[-1].path and above != self._open[-1].path and not above.startswith(self._open[-1].path + b"/"):
            self._leave()
        if above != self._open[-1].path:
            for part in above[len(self._open[-1].path) :].strip(b"/").split(b"/"):
                self._enter(part, None)
        return self._open[-1].fd, name

    def _enter(self, name: bytes, entry: Entry | None) -> None:
        """Go into a directory, which is made if it is missing."""
        here = self._open[-1]
        if len(self._open) > _DEPTH_MAX:
            raise GuestError("malformed tree stream: its directories are too deep")
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700 if entry else 0o755, dir_fd=here.fd)
        try:
            fd = os.open(name, _DIRECTORY, dir_fd=here.fd)
        except PermissionError:
            self._make_mine(name, here.fd)
            fd = os.open(name, _DIRECTORY, dir_fd=here.fd)
        self._open.append(_Open(here.path + b"/" + name if here.path else name, fd, entry))

    def _make_mine(self, name: bytes, parent: int) -> None:
        """A directory that we may not look into, such as one that an earlier copy left with mode 0."""
        if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            raise NotADirectoryError(errno.ENOTDIR, "not a directory")
        os.chmod(name, 0o700, dir_fd=parent)

    def _leave(self) -> None:
        left = self._open.pop()
        try:
            if left.entry is not None:
                self._set_attributes(left.fd, left.entry)
        finally:
            os.close(left.fd)

    # -- kinds of entries ------------------------------------------------------------------------------------------------------------------------

    def _make(self, entry: Entry) -> None:
        self.entries += 1
        if entry.path == b".":
            return
        parent, name = self._parent_of(entry.path)
        if entry.kind is Kind.DIRECTORY:
            self._enter(name, entry)
        elif entry.kind is Kind.REGULAR:
            self._begin(entry, parent, name)
        elif entry.kind is Kind.SYMLINK:
            self._symlink(entry, parent, name)
        elif entry.kind is Kind.HARDLINK:
            self._hardlink(entry, name)
        else:
            raise GuestError("malformed tree stream: a guest does not remove files of the host")

    def _begin(self, entry: Entry, parent: int, name: bytes) -> None:
        temporary = b""
        try:
            fd = os.open(b".", _WRITE | os.O_TMPFILE, 0o600, dir_fd=parent)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL):
                raise
            temporary = _temporary_name()
            fd = os.open(temporary, _WRITE | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=parent)
        self._pending = _Pending(entry, parent, name, fd, temporary)

    def _store(self, content: Content) -> None:
        pending = self._pending
        assert pending is not None, "the decoder gives content after its entry only"
        at, rest = content.offset, memoryview(content.data)
        while rest:
            done = os.pwrite(pending.fd, rest, at)
            at, rest = at + done, rest[done:]
        pending.end = at
        self.size += len(content.data)

    def _finish(self, size: int) -> None:
        pending = self._pending
        assert pending is not None, "the decoder ends what it has begun"
        if size > pending.end:
            os.ftruncate(pending.fd, size)
        self._set_attributes(pending.fd, pending.entry)
        if pending.temporary:
            _replace(pending.parent, pending.temporary, pending.name)
        else:
            _link(f"/proc/self/fd/{pending.fd}", pending.parent, pending.name)
        os.close(pending.fd)
        self._pending = None

    def _give_up(self) -> None:
        """Nothing stays of a file that was not complete."""
        if self._pending is None:
            return
        os.close(self._pending.fd)
        if self._pending.temporary:
            with contextlib.suppress(OSError):
                os.unlink(self._pending.temporary, dir_fd=self._pending.parent)
        self._pending = None

    def _symlink(self, entry: Entry, parent: int, name: bytes) -> None:
        temporary = _temporary_name()
        os.symlink(entry.target, temporary, dir_fd=parent)
        try:
            if self._archive and entry.uid is not None and entry.gid is not None:
                self._give(temporary, entry.uid, entry.gid, parent)
            if entry.mtime_ns is not None:
                os.utime(temporary, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=parent, follow_symlinks=False)
            _replace(parent, temporary, name)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=parent)
            raise

    def _hardlink(self, entry: Entry, name: bytes) -> None:
        """The target is opened as everything is: part by part, without links; it must be a regular file."""
        top = os.dup(self._open[0].fd)
        try:
            *above, last = entry.target.split(b"/")
            for part in above:
                inner = os.open(part, _DIRECTORY, dir_fd=top)
                os.close(top)
                top = inner
            if not stat.S_ISREG(os.stat(last, dir_fd=top, follow_symlinks=False).st_mode):
                raise GuestError(f"malformed tree stream: {os.fsdecode(entry.path)} is a hard link to something that is no file")
            temporary = _temporary_name()
            parent = self._open[-1].fd
            os.link(last, temporary, src_dir_fd=top, dst_dir_fd=parent, follow_symlinks=False)
            _replace(parent, temporary, name)
            with contextlib.suppress(FileNotFoundError):  # it stays when both names were the same file already
                os.unlink(temporary, dir_fd=parent)
        finally:
            os.close(top)

    # -- attributes ------------------------------------------------------------------------------------------------------------------------------

    def _set_attributes(self, fd: int, entry: Entry) -> None:
        if self._archive and entry.uid is not None and entry.gid is not None:
            self._give(fd, entry.uid, entry.gid)
        if entry.mode is not None:
            os.fchmod(fd, entry.mode & _MODE_MASK)
        for name, value in entry.xattrs if self._archive else ():
            if name.startswith("user."):
                with contextlib.suppress(OSError):
                    os.setxattr(fd, name, value)
        if entry.mtime_ns is not None:
            os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))

    def _give(self, what: int | bytes, uid: int, gid: int, parent: int | None = None) -> None:
        try:
            os.chown(what, uid, gid, dir_fd=parent, follow_symlinks=isinstance(what, int))
        except PermissionError:
            self.not_given += 1


def _temporary_name() -> bytes:
    return b".banger-" + secrets.token_hex(8).encode()


def _link(source: str, parent: int, name: bytes) -> None:
    """Name a file that has none; what had that name goes."""
    try:
        os.link(source, name, dst_dir_fd=parent, follow_symlinks=True)
    except FileExistsError:
        temporary = _temporary_name()
        os.link(source, temporary, dst_dir_fd=parent, follow_symlinks=True)
        _replace(parent, temporary, name)


def _replace(parent: int, temporary: bytes, name: bytes) -> None:
    try:
        os.replace(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
    except OSError:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=parent)
        raise


def _why(error: OSError) -> str:
    if error.errno == errno.EISDIR:
        return "a directory is in the way"
    if error.errno in (errno.ENOTDIR, errno.ELOOP):
        return "something that is not a directory, or a symbolic link, is in the way"
    return error.strerror or str(error)
