"""The operation journal: which step of which change of which machine is under way, and the context that its undo needs."""

from __future__ import annotations

import time
from dataclasses import dataclass

from .database import Database


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """An operation that has begun and not ended. ``step`` is the index of the last step begun (-1: none), ``done`` whether it was finished."""

    id: int
    op_id: str
    kind: str
    vm_id: str
    step: int
    done: bool
    context: str


class Journal:
    """Open operations. Closing one removes it, in the same transaction as the record's change of state."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def open(self, *, op_id: str, kind: str, vm_id: str, context: str) -> int:
        """Begin an operation; returns the entry's id."""
        cursor = self._database.execute(
            "INSERT INTO journal (op_id, kind, vm_id, step, done, context, opened_at) VALUES (?, ?, ?, -1, 1, ?, ?)", (op_id, kind, vm_id, context, time.time())
        )
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def write(self, entry_id: int, *, step: int, done: bool, context: str) -> None:
        """Note that ``step`` is about to run (``done`` false) or has run."""
        self._database.execute("UPDATE journal SET step = ?, done = ?, context = ? WHERE id = ?", (step, int(done), context, entry_id))

    def close(self, entry_id: int) -> None:
        """End an operation; success when it is gone."""
        self._database.execute("DELETE FROM journal WHERE id = ?", (entry_id,))

    def close_all(self, vm_id: str) -> None:
        """End all operations of a machine: nothing of an earlier one, whose rollback failed, may be carried out after a later one has succeeded."""
        self._database.execute("DELETE FROM journal WHERE vm_id = ?", (vm_id,))

    def entries(self) -> tuple[JournalEntry, ...]:
        """All open operations, oldest first."""
        rows = self._database.execute("SELECT * FROM journal ORDER BY id")
        return tuple(JournalEntry(r["id"], r["op_id"], r["kind"], r["vm_id"], r["step"], bool(r["done"]), r["context"]) for r in rows)
