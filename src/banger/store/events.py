"""The table of events: the latest changes of state, stages and failures of all machines, with a cursor that survives the daemon."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from ..model.opid import current_op_id
from ..model.records import VMEvent

if TYPE_CHECKING:
    from .database import Database

KEPT: Final = 10_000
_PRUNED_EVERY: Final = 256
_LONGEST_MESSAGE: Final = 2000


class EventTable:
    """Rows that are only added, and dropped when they are old. Append inside the transaction of what they tell of."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._news = asyncio.Event()
        self._closed = False

    def append(self, kind: str, vm_id: str, *, operation: str = "", stage: str = "", state: str = "", message: str = "") -> None:
        """Add an event of a machine; its name is taken from its row."""
        cursor = self._database.execute(
            "INSERT INTO events (at, kind, vm_id, vm_name, operation, stage, state, message, op_id)"
            " VALUES (?, ?, ?, COALESCE((SELECT name FROM vms WHERE id = ?), ''), ?, ?, ?, ?, ?)",
            (time.time(), kind, vm_id, vm_id, operation, stage, state, message[:_LONGEST_MESSAGE], current_op_id.get()),
        )
        assert cursor.lastrowid is not None
        if cursor.lastrowid % _PRUNED_EVERY == 0:
            self._database.execute("DELETE FROM events WHERE cursor <= ?", (cursor.lastrowid - KEPT,))
        self._ring()

    def after(self, cursor: int, limit: int) -> tuple[VMEvent, ...]:
        """At most ``limit`` events that came after ``cursor``, oldest first."""
        return tuple(VMEvent(**dict(row)) for row in self._database.execute("SELECT * FROM events WHERE cursor > ? ORDER BY cursor LIMIT ?", (cursor, limit)))

    def newest(self) -> int:
        """Cursor of the newest event that there ever was; 0 = there was none."""
        row = self._database.execute("SELECT seq FROM sqlite_sequence WHERE name = 'events'").fetchone()
        return row["seq"] if row else 0

    def oldest(self) -> int:
        """Cursor of the oldest event that is kept; one more than ``newest`` when none is."""
        oldest: int | None = self._database.execute("SELECT min(cursor) AS oldest FROM events").fetchone()["oldest"]
        return self.newest() + 1 if oldest is None else oldest

    async def wait(self, cursor: int) -> bool:
        """Return when there is an event after ``cursor``; False when none will come any more."""
        while not self._closed and self.newest() <= cursor:
            await self._news.wait()
        return not self._closed

    def close(self) -> None:
        """End all waiting."""
        self._closed = True
        self._ring()

    def _ring(self) -> None:
        # Whoever wakes runs later, when the transaction, in which nothing awaits, has ended.
        news, self._news = self._news, asyncio.Event()
        news.set()
