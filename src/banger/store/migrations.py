"""The schema as an append-only list of migrations. A landed one is never edited; a later one corrects it.

``PRAGMA user_version`` counts how many have been applied. A database that counts more than this program knows is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Migration:
    """One step of the schema, applied in a transaction of its own."""

    name: str
    statements: tuple[str, ...]


MIGRATIONS: Final[tuple[Migration, ...]] = (
    Migration(
        "baseline",
        (
            """
            CREATE TABLE kernels (
                id TEXT PRIMARY KEY,
                name TEXT NOT NULL UNIQUE,
                record TEXT NOT NULL
            ) STRICT
            """,
            """
            CREATE TABLE images (
                id TEXT PRIMARY KEY,
                name TEXT NOT NULL UNIQUE,
                record TEXT NOT NULL
            ) STRICT
            """,
            """
            CREATE TABLE vms (
                id TEXT PRIMARY KEY,
                name TEXT NOT NULL UNIQUE,
                image_id TEXT NOT NULL REFERENCES images (id),
                image_name TEXT NOT NULL,
                state TEXT NOT NULL CHECK (state IN ('created', 'running', 'stopped', 'error')),
                created_at REAL NOT NULL,
                updated_at REAL NOT NULL,
                touched_at REAL NOT NULL,
                remove INTEGER NOT NULL CHECK (remove IN (0, 1)),
                vmm_uid INTEGER UNIQUE,
                spec TEXT NOT NULL,
                runtime TEXT NOT NULL
            ) STRICT
            """,
            """
            CREATE TABLE journal (
                id INTEGER PRIMARY KEY,
                op_id TEXT NOT NULL,
                kind TEXT NOT NULL,
                vm_id TEXT NOT NULL,
                step INTEGER NOT NULL,
                done INTEGER NOT NULL CHECK (done IN (0, 1)),
                context TEXT NOT NULL,
                opened_at REAL NOT NULL
            ) STRICT
            """,
            "CREATE INDEX journal_by_vm ON journal (vm_id)",
        ),
    ),
    Migration(
        "events",
        (
            """
            CREATE TABLE events (
                cursor INTEGER PRIMARY KEY AUTOINCREMENT,
                at REAL NOT NULL,
                kind TEXT NOT NULL,
                vm_id TEXT NOT NULL,
                vm_name TEXT NOT NULL,
                operation TEXT NOT NULL,
                stage TEXT NOT NULL,
                state TEXT NOT NULL,
                message TEXT NOT NULL,
                op_id TEXT NOT NULL
            ) STRICT
            """,
        ),
    ),
    Migration(
        "addresses",
        (
            "ALTER TABLE vms ADD COLUMN address TEXT",
            "ALTER TABLE vms ADD COLUMN tap TEXT",
            "CREATE UNIQUE INDEX vms_by_address ON vms (address)",
            "CREATE UNIQUE INDEX vms_by_tap ON vms (tap)",
        ),
    ),
)
