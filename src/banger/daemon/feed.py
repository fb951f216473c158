"""The stream of all machines' events: pages from the table, so that a reader who is slow, or comes back later, costs no memory."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from ..api.codec import encode_line
from ..model.errors import BadRequest
from ..model.records import VMEvent
from ..store.events import EventTable

_PAGE: Final = 256
_RECENT: Final = 100
"""Events shown when nothing says where to begin."""


class EventFeed:
    """One reader's events. Begins after ``since``; without it, with the last hundred, or when following with what comes next."""

    def __init__(self, events: EventTable, query: Mapping[str, str]) -> None:
        """Raises BadRequest for a cursor that is none, or that this instance has never given out."""
        self._events = events
        self._follow = query.get("follow", "0") not in ("0", "false")
        newest = events.newest()
        default = newest if self._follow else max(events.oldest() - 1, newest - _RECENT)
        self._cursor = _parse(query["since"], newest) if query.get("since") else default

    @contextmanager
    def followed(self) -> Iterator[AsyncIterator[bytes]]:
        """Lines of JSON in chunks of whole lines."""
        yield self._chunks()

    async def _chunks(self) -> AsyncIterator[bytes]:
        while True:
            missed = self._events.oldest() - 1 - self._cursor
            page = self._events.after(self._cursor, _PAGE)
            if missed > 0:
                self._cursor += missed
                yield encode_line(VMEvent(cursor=self._cursor, kind="dropped", message=f"{missed} earlier events are not kept"))
            if page:
                self._cursor = page[-1].cursor
                yield b"".join(map(encode_line, page))
            elif not self._follow or not await self._events.wait(self._cursor):
                return


def _parse(untrusted: str, newest: int) -> int:
    if not re.fullmatch(r"[0-9]{1,18}", untrusted):
        raise BadRequest(f"since must be the cursor of an event, not {untrusted[:40]!r}", hint="0 begins with the oldest event that is kept")
    if int(untrusted) > newest:
        raise BadRequest(
            f"no event has the cursor {untrusted}; the newest is {newest}", hint="cursors of another instance, or of a deleted database, mean nothing here"
        )
    return int(untrusted)
