"""The working tree: which files it has, read once each, and known by the hash of the very bytes that were sent."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NoReturn

import msgspec

from ..model.errors import BangerError
from .index import EXECUTABLE, GITLINK, REGULAR, SYMLINK, IndexEntry, UserIndex
from .records import Record, directory
from .repository import Repository

_CHUNK: Final = 1024 * 1024
KEEP_LIMIT: Final = 16 * 1024 * 1024
"""Content up to so many bytes is handed to ``on_content`` whole; larger files are read again by whoever needs them."""


class FileState(msgspec.Struct, frozen=True, gc=False):
    """A file or symlink as it was found. ``oid`` is "" until it has been read: the name of a blob of its bytes as they are, without any conversion."""

    mode: int
    """``st_mode``, kind and permissions."""
    size: int
    mtime_ns: int
    oid: str = ""

    @property
    def is_link(self) -> bool:
        return stat.S_ISLNK(self.mode)

    @property
    def git_mode(self) -> int:
        """The mode that a tree of git has for it."""
        return SYMLINK if self.is_link else EXECUTABLE if self.mode & stat.S_IXUSR else REGULAR


Files = dict[bytes, FileState]


def list_untracked(repository: Repository) -> list[bytes]:
    """Paths that git neither tracks nor ignores. A repository inside this one is listed as ``path/``."""
    return repository.git.output("ls-files", "-z", "--others", "--exclude-standard").split(b"\0")[:-1]


def list_submodule_files(repository: Repository, index: UserIndex) -> list[bytes]:
    """What the initialised submodules of ``index`` track."""
    links = tuple(path + b"/" for path, entry in index.entries.items() if entry.mode == GITLINK)
    listed = repository.git.output("ls-files", "-z", "--recurse-submodules").split(b"\0")[:-1] if links else []
    return [path for path in listed if path.startswith(links)]


def find_files(root: bytes, paths: Iterable[bytes], tracked: dict[bytes, IndexEntry], *, believe_modes: bool) -> Files:
    """Those of ``paths`` that are regular files or symlinks now, reached through real directories alone.

    ``believe_modes`` False: the file system has no executable bits (``core.filemode``), the index of git says which files have one.
    """
    real: dict[bytes, bool] = {b"": True}
    found: Files = {}
    for path in paths:
        if not _in_real_directory(root, path.rpartition(b"/")[0], real):
            continue
        info = _look(root + b"/" + path)
        if info is None or not (stat.S_ISREG(info.st_mode) or stat.S_ISLNK(info.st_mode)):
            continue
        mode = info.st_mode
        if not believe_modes and stat.S_ISREG(mode):
            entry = tracked.get(path)
            mode = stat.S_IFREG | (0o755 if entry is not None and entry.mode == EXECUTABLE else 0o644)
        found[path] = FileState(mode, info.st_size, info.st_mtime_ns)
    return found


def find_all_files(root: bytes) -> tuple[Files, tuple[bytes, ...]]:
    """Every regular file and symlink below ``root`` but what is called ``.git``, and the directories that have none."""
    found: Files = {}
    visited: list[bytes] = []
    for place, folders, names in os.walk(root, onerror=_refuse):
        folders[:] = [name for name in folders if name != b".git"]
        below = place[len(root) + 1 :]
        visited += [below] if below else []
        links = [name for name in folders if os.path.islink(os.path.join(place, name))]
        for name in (*names, *links):
            info = _look(os.path.join(place, name))
            if info is not None and name != b".git" and (stat.S_ISREG(info.st_mode) or stat.S_ISLNK(info.st_mode)):
                found[os.path.join(below, name)] = FileState(info.st_mode, info.st_size, info.st_mtime_ns)
    full = {parent for path in (*found, *visited) for parent in parents_of(path)}
    return found, tuple(sorted(path for path in visited if path not in full))


def list_below(root: bytes, path: bytes) -> Iterator[bytes]:
    """Everything below the directory ``path`` of ``root`` that is no directory itself."""
    for place, folders, names in os.walk(os.path.join(root, path), onerror=_refuse):
        links = [name for name in folders if os.path.islink(os.path.join(place, name))]
        yield from (os.path.join(place, name)[len(root) + 1 :] for name in (*names, *links))


def parents_of(path: bytes) -> Iterator[bytes]:
    """The directories that ``path`` lies in, but for the top."""
    while path := path.rpartition(b"/")[0]:
        yield path


def _look(path: bytes) -> os.stat_result | None:
    """What is there, links not followed; None for nothing. Raises BangerError where we may not look."""
    try:
        return os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:  # behind a link that leads to itself there is nothing
            return None
        _refuse(error)


def _refuse(error: OSError) -> NoReturn:
    raise BangerError(f"cannot read {os.fsdecode(error.filename or b'')}: {error.strerror}", hint="make it readable, or let git ignore it") from error


def _in_real_directory(root: bytes, path: bytes, real: dict[bytes, bool]) -> bool:
    known = real.get(path)
    if known is None:
        info = _look(root + b"/" + path)
        itself = info is not None and stat.S_ISDIR(info.st_mode)
        known = real[path] = itself and _in_real_directory(root, path.rpartition(b"/")[0], real)
    return known


class TreeReader:
    """Turns files into records. ``files`` holds them with their hashes once their records have been consumed."""

    def __init__(self, root: bytes, files: Files, object_format: str, on_content: Callable[[bytes, str, bytes | None], None]) -> None:
        """``on_content(path, oid, content)`` is called for each file that was read; content is None when it is too long to be kept."""
        self.files = dict(files)
        self._root = root
        self._format = object_format
        self._on_content = on_content

    def records(self, wanted: Iterable[bytes]) -> Iterator[Record]:
        """Records of the paths ``wanted``, parents first. Raises BangerError when a file changes while it is read."""
        made: set[bytes] = {b""}
        for path in sorted(wanted):
            yield from self._parents(path, made)
            state = self.files[path]
            yield self._link(path, state) if state.is_link else self._regular(path, state)

    def _parents(self, path: bytes, made: set[bytes]) -> Iterator[Record]:
        parent = path.rpartition(b"/")[0]
        if parent not in made:
            yield from self._parents(parent, made)
            made.add(parent)
            yield directory(parent)

    def _link(self, path: bytes, state: FileState) -> Record:
        try:
            target = os.readlink(self._root + b"/" + path)
        except OSError as error:
            raise _changed(path) from error
        self._read(path, msgspec.structs.replace(state, size=len(target)), target)
        return Record(kind="symlink", path=path, mode=0o777, mtime_ns=state.mtime_ns, target=target)

    def _regular(self, path: bytes, state: FileState) -> Record:
        return Record(
            kind="regular", path=path, mode=stat.S_IMODE(state.mode) & 0o777, mtime_ns=state.mtime_ns, size=state.size, content=self._content(path, state)
        )

    def _content(self, path: bytes, state: FileState) -> Iterator[bytes]:
        if state.size <= KEEP_LIMIT:
            content = b"".join(self._chunks(path, state))
            self._read(path, state, content)
            yield content
            return
        digest = _blob_digest(self._format, state.size)
        for chunk in self._chunks(path, state):
            digest.update(chunk)
            yield chunk
        self._remember(path, state, digest.hexdigest(), None)

    def _chunks(self, path: bytes, state: FileState) -> Iterator[bytes]:
        try:
            fd = os.open(self._root + b"/" + path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except PermissionError as error:
            raise BangerError(f"cannot read {os.fsdecode(path)}: {error.strerror}", hint="make it readable, or let git ignore it") from error
        except OSError as error:
            raise _changed(path) from error
        with os.fdopen(fd, "rb", buffering=0) as file:
            left = state.size
            while left:
                chunk = file.read(min(left, _CHUNK))
                if not chunk:
                    raise _changed(path)
                left -= len(chunk)
                yield chunk
            info = os.fstat(fd)
        if (info.st_size, info.st_mtime_ns) != (state.size, state.mtime_ns):
            raise _changed(path)

    def _read(self, path: bytes, state: FileState, content: bytes) -> None:
        digest = _blob_digest(self._format, len(content))
        digest.update(content)
        self._remember(path, state, digest.hexdigest(), content)

    def _remember(self, path: bytes, state: FileState, oid: str, content: bytes | None) -> None:
        self.files[path] = msgspec.structs.replace(state, oid=oid)
        self._on_content(path, oid, content)


def _blob_digest(object_format: str, size: int) -> hashlib._Hash:
    return hashlib.new(object_format, b"blob %d\0" % size, usedforsecurity=False)


def _changed(path: bytes) -> BangerError:
    return BangerError(f"{os.fsdecode(path)} changed while it was read", hint="try again when nothing writes to the working tree")
