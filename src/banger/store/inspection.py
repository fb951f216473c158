"""A look at the database of an instance that changes not a byte: neither its schema nor the files beside it."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..model.errors import StoreError
from .database import advice
from .migrations import MIGRATIONS

_DAY: Final = 86400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreLook:
    """What is in it."""

    schema: int
    newest_schema: int
    """That this version of banger knows."""
    machines: int = 0
    images: tuple[str, ...] = ()
    """Their names."""
    recent_failures: int = 0
    """In the last 24 hours."""
    last_failure: str = ""
    """Machine and reason, of those."""


def look(path: Path, now: float | None = None) -> StoreLook | None:
    """Look at the database at ``path``; None when there is none. Raises StoreError when it cannot be read or is damaged."""
    if not path.exists():
        return None
    try:
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?{_mode(path)}", uri=True, timeout=2.0)) as connection:
            return _look(connection, time.time() if now is None else now)
    except sqlite3.Error as error:
        raise StoreError(f"{path} is not usable: {error}", hint=advice(path, error)) from error


def _mode(path: Path) -> str:
    """Without a write-ahead log nobody has it open, and SQLite is told not to make one for us (https://sqlite.org/wal.html#read_only_databases)."""
    return "mode=ro" if path.with_name(f"{path.name}-wal").exists() else "mode=ro&immutable=1"


def _look(connection: sqlite3.Connection, now: float) -> StoreLook:
    schema: int = connection.execute("PRAGMA user_version").fetchone()[0]
    (complaint,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if complaint != "ok":
        raise sqlite3.DatabaseError(complaint)
    if schema != len(MIGRATIONS):  # its tables are those of another version
        return StoreLook(schema=schema, newest_schema=len(MIGRATIONS))
    (machines,) = connection.execute("SELECT count(*) FROM vms").fetchone()
    failures = connection.execute("SELECT vm_name, message FROM events WHERE kind = 'failure' AND at > ? ORDER BY cursor", (now - _DAY,)).fetchall()
    return StoreLook(
        schema=schema,
        newest_schema=len(MIGRATIONS),
        machines=machines,
        images=tuple(name for (name,) in connection.execute("SELECT name FROM images ORDER BY name")),
        recent_failures=len(failures),
        last_failure=": ".join(failures[-1]) if failures else "",
    )
