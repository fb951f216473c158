"""Whether this program can use a database that another version wrote, and the way back for one that was migrated by a version which is given up."""

from __future__ import annotations

import contextlib
import sqlite3
from enum import Enum
from pathlib import Path

from ..model.errors import StoreError
from .database import copy_database
from .migrations import MIGRATIONS


class Compatibility(Enum):
    """Of a database with this program. The value is the exit status of ``bangerd --check-migrations``."""

    COMPATIBLE = 0
    NEEDS_MIGRATIONS = 1
    INCOMPATIBLE = 2


def check_migrations(path: Path) -> tuple[Compatibility, str]:
    """How the database at ``path`` stands to this program, and the same in words; looks only. One that is not there yet is compatible."""
    if not path.exists():
        return Compatibility.COMPATIBLE, "there is no database yet"
    try:
        applied = _schema_of(path)
    except sqlite3.Error as error:
        return Compatibility.INCOMPATIBLE, f"{path} is not usable: {error}"
    words = f"{path} has schema {applied}, this program knows {len(MIGRATIONS)}"
    if applied > len(MIGRATIONS):
        return Compatibility.INCOMPATIBLE, words
    return (Compatibility.COMPATIBLE if applied == len(MIGRATIONS) else Compatibility.NEEDS_MIGRATIONS), words


def restore_older(path: Path) -> str:
    """Put the copy back that a newer program made before its first migration; what it wrote since is kept beside it. Says what was done, "" for nothing.

    For whoever holds the daemon's lock. Raises StoreError when there is no such copy; the database is as it was then.
    """
    if check_migrations(path)[0] is not Compatibility.INCOMPATIBLE:
        return ""
    copy, known = path.with_name(f"{path.name}.before-{len(MIGRATIONS) + 1}"), len(MIGRATIONS)
    try:
        if not copy.is_file() or _schema_of(copy) != known:
            raise StoreError(f"{path} was written by a newer banger, and {copy} is no copy of schema {known}", hint="use the newer banger")
        with contextlib.closing(sqlite3.connect(path)) as database, contextlib.closing(sqlite3.connect(_read_only(copy), uri=True)) as older:
            newer = path.with_name(f"{path.name}.newer-{_schema_of(path)}")
            copy_database(database, newer)
            older.backup(database)  # one transaction, as any other
    except (sqlite3.Error, OSError) as error:
        raise StoreError(f"{path} could not be restored from {copy}: {error}", hint="is the disk full?") from error
    return f"{path} is again what it was before the newer banger changed it; what that one wrote is in {newer}"


def _schema_of(path: Path) -> int:
    with contextlib.closing(sqlite3.connect(_read_only(path), uri=True)) as connection:
        applied: int = connection.execute("PRAGMA user_version").fetchone()[0]
        return applied


def _read_only(path: Path) -> str:
    return f"{path.absolute().as_uri()}?mode=ro"
