"""One SQLite connection, used directly on the event loop: a statement takes microseconds, and reserving is atomic because nothing awaits inside."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from ..host.files import STAGING_SUFFIX, sync_directory, sync_file
from ..model.errors import StoreError
from .events import EventTable
from .migrations import MIGRATIONS

log = logging.getLogger(__name__)

_SMALLEST: Final = 512
"""Bytes of the smallest database (https://sqlite.org/fileformat.html, page size). SQLite itself takes a shorter file for a new one."""


_WAL_PAGES: Final = 4096
"""16 MiB. A checkpoint waits for the disk, and everybody with it; a create writes about a hundred pages, mostly the same ones."""
_BALLAST_RETRY_SECONDS: Final = 5.0
BALLAST_BYTES: Final = 1024 * 1024
"""Without it a full disk could not be freed: deleting a machine has to be written down first."""


class Database:
    """An open store."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self.path = path
        self._ballast_due: float | None = None
        """When to look for room for the ballast again, on the monotonic clock; None while it is there."""
        self.events = EventTable(self)

    @classmethod
    def open(cls, path: Path, *, contents: tuple[Path, ...] = ()) -> Database:
        """Open or make the database at ``path`` and bring its schema up to date; an existing one is copied before each migration.

        ``contents``: directories whose entries nobody knows but the database, so that none is made beside them. Raises StoreError for that, and when the
        file is damaged, not a database, or of a newer banger; the file is left as it is then.
        """
        fresh = not os.path.lexists(path)
        if fresh:
            _require_no_contents(path, contents)
        try:
            if not fresh:
                _inspect(path)
            connection = sqlite3.connect(path, isolation_level=None)
        except sqlite3.Error as error:
            raise _unusable(path, error) from error
        database = cls(connection, path)
        try:
            database._configure()
            database._migrate(keep_copies=not fresh)
            database.keep_ballast()
        except BaseException as error:
            connection.close()
            if fresh:  # an empty one would be refused next time: it cannot be told from one that was cut off
                path.unlink(missing_ok=True)
            if isinstance(error, sqlite3.Error):
                raise _unusable(path, error) from error
            raise
        return database

    def close(self) -> None:
        """Close the connection; idempotent."""
        self._connection.close()

    def execute(self, statement: str, parameters: tuple[object, ...] = ()) -> sqlite3.Cursor:
        """Run one statement, in the transaction that is open or one of its own. Raises StoreError for a full disk and the like."""
        try:
            return self._connection.execute(statement, parameters)
        except sqlite3.IntegrityError:
            raise
        except sqlite3.Error as error:
            raise StoreError(f"the database {self.path} failed: {error}", hint=advice(self.path, error)) from error

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All statements inside take effect together or not at all. Nothing may await inside."""
        self.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._connection.rollback()
            raise
        try:
            self.execute("COMMIT")
        except BaseException:
            self._connection.rollback()
            raise
        self._restore_ballast()

    def is_full(self, error: BaseException) -> bool:
        """Whether the reason for ``error``, or for one of its group, is that the disk of the database is full."""
        if isinstance(error, BaseExceptionGroup):
            return any(map(self.is_full, error.exceptions))
        name: str = getattr(error.__cause__, "sqlite_errorname", "")
        if name.startswith("SQLITE_IOERR"):  # the index of the write-ahead log is mapped into memory: there a full disk has no name of its own
            return shutil.disk_usage(self.path.parent).free < BALLAST_BYTES
        return name == "SQLITE_FULL"

    def spend_ballast(self) -> bool:
        """Free the space that is kept for ending machines on a full disk; False when it has been spent."""
        try:
            self._ballast.unlink()
        except FileNotFoundError:
            return False
        log.warning("the disk is full: the reserve was freed to go on", extra={"file": str(self._ballast)})
        self._ballast_due = time.monotonic() + _BALLAST_RETRY_SECONDS
        return True

    def _restore_ballast(self) -> None:
        """Reserve the space again soon after there is room for it, by whoever it was made."""
        if self._ballast_due is not None and time.monotonic() >= self._ballast_due:
            self.keep_ballast()

    def keep_ballast(self) -> None:
        """Reserve that space (again); without effect while the disk is full."""
        try:
            with self._ballast.open("xb") as file:
                os.posix_fallocate(file.fileno(), 0, BALLAST_BYTES)
            self._ballast_due = None
        except FileExistsError:
            self._ballast_due = None
        except OSError as error:
            log.warning("no space to keep in reserve", extra={"error": str(error)})
            self._ballast_due = time.monotonic() + _BALLAST_RETRY_SECONDS
            self._ballast.unlink(missing_ok=True)

    @property
    def _ballast(self) -> Path:
        return self.path.with_name(f"{self.path.name}.ballast")

    @contextmanager
    def atomic(self) -> Iterator[None]:
        """The transaction that is open, or one of its own. Nothing may await inside."""
        if self._connection.in_transaction:
            yield
        else:
            with self.transaction():
                yield

    def _configure(self) -> None:
        self._connection.row_factory = sqlite3.Row
        for pragma in ("journal_mode = WAL", "synchronous = NORMAL", "foreign_keys = ON", "busy_timeout = 5000", f"wal_autocheckpoint = {_WAL_PAGES}"):
            self._connection.execute(f"PRAGMA {pragma}")

    def _migrate(self, *, keep_copies: bool) -> None:
        applied: int = self._connection.execute("PRAGMA user_version").fetchone()[0]
        for number, migration in enumerate(MIGRATIONS[applied:], start=applied + 1):
            if keep_copies:
                copy_database(self._connection, self.path.with_name(f"{self.path.name}.before-{number}"))
            with self.transaction():
                for statement in migration.statements:
                    self._connection.execute(statement)
                self._connection.execute(f"PRAGMA user_version = {number}")
            log.info("schema migrated", extra={"migration": migration.name, "schema": number})


def copy_database(connection: sqlite3.Connection, target: Path) -> None:
    """A whole copy of the open database in ``target``, whatever is in the write-ahead log. Raises StoreError; the database is untouched then."""
    staged = target.with_name(target.name + STAGING_SUFFIX)
    staged.unlink(missing_ok=True)
    try:
        with contextlib.closing(sqlite3.connect(staged)) as copy:
            connection.backup(copy)
        staged.chmod(0o600)
        sync_file(staged)
        os.replace(staged, target)
        sync_directory(target.parent)
    except (sqlite3.Error, OSError) as error:
        staged.unlink(missing_ok=True)
        raise StoreError(f"cannot keep a copy of the database in {target} before it changes: {error}", hint="is the disk full?") from error


def _inspect(path: Path) -> None:
    """Look at an existing database without changing a byte of it. Raises StoreError for one that must not be opened, sqlite3.Error for one that cannot be."""
    if not path.is_file():
        raise StoreError(f"{path} is not usable: it is not a file", hint=f"put the database back in its place: mv {path} {path}.broken; {_restore(path)}")
    if path.stat().st_size < _SMALLEST:
        raise _unusable(path, "it has been cut off")
    with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
        applied: int = connection.execute("PRAGMA user_version").fetchone()[0]
        if applied > len(MIGRATIONS):
            raise StoreError(
                f"{path} was written by a newer banger (schema {applied}, this one knows {len(MIGRATIONS)})",
                hint="use the newer banger, or another BANGER_HOME",
            )
        (complaint,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if complaint != "ok":
            raise _unusable(path, complaint)


def _unusable(path: Path, reason: sqlite3.Error | str) -> StoreError:
    hint = advice(path, reason) if isinstance(reason, sqlite3.Error) else _replace_it(path)
    return StoreError(f"{path} is not usable: {reason}", hint=hint)


def _require_no_contents(path: Path, directories: tuple[Path, ...]) -> None:
    there = [f"{len(entries)} in {directory}" for directory in directories if (entries := _entries(directory))]
    if there:
        raise StoreError(f"{path} is missing, and only it knows what is there: {', '.join(there)}", hint=_replace_it(path))


def _entries(directory: Path) -> list[str]:
    """Directories in it, but for half-made ones, which nobody needs to know."""
    try:
        return [entry.name for entry in os.scandir(directory) if entry.is_dir(follow_symlinks=False) and not entry.name.endswith(STAGING_SUFFIX)]
    except OSError:
        return []


def _replace_it(path: Path) -> str:
    return f"{_restore(path)}; or start afresh and lose all machines and images: mv {path.parent} {path.parent}.broken"


def _restore(path: Path) -> str:
    copies = sorted(path.parent.glob(f"{path.name}.before-*[0-9]"), key=lambda copy: copy.stat().st_mtime)
    return f"{copies[-1]} is an older copy" if copies else "restore it from a backup"


def advice(path: Path, error: sqlite3.Error) -> str:
    """What to do about it. Only a file that is damaged may be moved away: it holds the only knowledge of the machines."""
    match getattr(error, "sqlite_errorname", "").split("_")[:2]:
        case ["SQLITE", "NOTADB" | "CORRUPT"]:
            return _replace_it(path)
        case ["SQLITE", "READONLY" | "CANTOPEN" | "PERM" | "AUTH"]:
            return f"make {path.parent} writable for you"
        case _:
            return f"free some space: df {path.parent}"
