"""What one face of the server says: from the bytes of a query to the bytes of its answer, or to the query when others have to be asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from .message import Code, Query, read_query, write_answer
from .zone import Zone


class Forwards(Protocol):
    """Asks others."""

    async def ask(self, query: Query, source: str, *, stream: bool) -> bytes:
        """The whole answer for the client at address ``source``, SERVFAIL when nobody has one. ``stream``: it came by TCP. Raises nothing."""


def _nobody(_: str) -> bool:
    return False


def _anybody(_: str) -> bool:
    return True


class Responder:
    """Answers at once whatever can be."""

    def __init__(
        self, zone: Zone, *, forwards: Forwards | None = None, may_forward: Callable[[str], bool] = _nobody, admits: Callable[[str], bool] = _anybody
    ) -> None:
        """Both tell by the client's address: ``may_forward`` whether others are asked for it, ``admits`` whether it is answered at all."""
        self._zone = zone
        self._forwards = forwards
        self._may_forward = may_forward
        self._admits = admits
        self._expected: dict[bytes, asyncio.Event] = {}

    def answer(self, untrusted: bytes, source: str) -> bytes | Query | None:
        """The answer, a query to be given to ``forward``, or None when nothing is to be sent."""
        query = read_query(untrusted) if self._admits(source) else None
        if not isinstance(query, Query):
            return query
        if self._expected:
            self._note(query)
        recursion = self._forwards is not None and self._may_forward(source)
        if (answer := self._zone.answer(query, recursion=recursion)) is not None:
            return answer
        return query if recursion else write_answer(query, Code.REFUSED)

    async def forward(self, query: Query, source: str, *, stream: bool) -> bytes:
        """What others say."""
        if self._forwards is None:
            return write_answer(query, Code.REFUSED)
        return await self._forwards.ask(query, source, stream=stream)

    @contextmanager
    def expecting(self, label: str) -> Iterator[asyncio.Event]:
        """An event that is set when somebody asks for a name that begins with this label, in lower case."""
        event = self._expected[label.encode("ascii")] = asyncio.Event()
        try:
            yield event
        finally:
            del self._expected[label.encode("ascii")]

    def _note(self, query: Query) -> None:
        if query.labels and (event := self._expected.get(query.labels[0])) is not None:
            event.set()
