"""``[[file_sync]]``: files of the host that every machine gets at each start."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from ..guest.agent import FileToWrite
from ..model.config import FileSync
from ..model.errors import BadRequest

log = logging.getLogger(__name__)

MAX_BYTES: Final = 8 * 1024 * 1024
"""Of all entries together: they travel in the guest's configuration, which has a limit too."""
MAX_FILES: Final = 10_000


def read_files(entries: Sequence[FileSync], home: Path) -> tuple[FileToWrite, ...]:
    """All files of all entries, as they shall be in a guest: root's; a file's mode is the entry's, below a directory each keeps its own.

    What is missing is skipped with a warning, and so is, below a directory, whatever is neither file nor directory: nothing outside of the named tree
    goes along. Raises BadRequest for what cannot be read, or too much of it.
    """
    files: list[FileToWrite] = []
    size = 0
    for entry in entries:
        for file in _read_entry(entry, home):
            files.append(file)
            size += len(file.content)
            if size > MAX_BYTES or len(files) > MAX_FILES:
                raise BadRequest(
                    f"file_sync: {entry.host}: more than {MAX_BYTES >> 20} MiB or {MAX_FILES} files in all", hint="name less in config.toml; use `banger vm cp`"
                )
    return tuple(files)


def _read_entry(entry: FileSync, home: Path) -> Iterator[FileToWrite]:
    path = home / entry.host.removeprefix("~/") if entry.host.startswith("~/") else Path(entry.host)
    try:
        if path.is_dir():
            yield from _read_tree(path, entry.guest)
        elif path.exists():
            yield FileToWrite(path=entry.guest, content=_read(path, 0)[0], mode=entry.mode)
        else:
            log.warning("file_sync: not there, skipped", extra={"path": str(path)})
    except OSError as error:
        raise BadRequest(f"file_sync: {error.filename or path}: {error.strerror}", hint="make it readable, or remove the entry from config.toml") from error


def _read_tree(top: Path, guest: str) -> Iterator[FileToWrite]:
    def failed(error: OSError) -> None:
        raise error

    for directory, names, files in os.walk(top, onerror=failed):
        names.sort()
        for name in sorted([*files, *(name for name in names if Path(directory, name).is_symlink())]):
            path = Path(directory, name)
            if not stat.S_ISREG(path.lstat().st_mode):
                log.warning("file_sync: neither file nor directory, skipped", extra={"path": str(path)})
                continue
            content, mode = _read(path, os.O_NOFOLLOW)
            yield FileToWrite(path=f"{guest}/{path.relative_to(top)}", content=content, mode=mode)


def _read(path: Path, flags: int) -> tuple[bytes, int]:
    """Content, as far as it may go at all, and mode."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | flags)
    info = os.fstat(fd)
    if not stat.S_ISREG(info.st_mode):
        os.close(fd)
        raise BadRequest(f"file_sync: {path} is neither a file nor a directory", hint="remove the entry from config.toml")
    with os.fdopen(fd, "rb") as file:
        return file.read(MAX_BYTES + 1), stat.S_IMODE(info.st_mode) & 0o777
