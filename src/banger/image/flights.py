"""One run of a piece of work, however many ask for it at once; it ends when nobody waits for it any more."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from ..model.progress import Report

Result = TypeVar("Result")
_Event = tuple[str, str, float | None, bool]


@dataclass(eq=False)
class _Flight(Generic[Result]):
    task: asyncio.Task[Result] | None = None
    listeners: list[Report] = field(default_factory=list)
    last: _Event | None = None

    def report(self, stage: str, message: str = "", *, progress: float | None = None, warning: bool = False) -> None:
        self.last = (stage, message, progress, warning)
        for listener in self.listeners:
            listener(stage, message, progress=progress, warning=warning)

    def listen(self, listener: Report) -> None:
        self.listeners.append(listener)
        if self.last is not None:
            stage, message, progress, warning = self.last
            listener(stage, message, progress=progress, warning=warning)


class Flights(Generic[Result]):
    """Work in progress by key."""

    def __init__(self) -> None:
        self._flights: dict[str, _Flight[Result]] = {}

    @property
    def busy(self) -> bool:
        """Whether any work is under way."""
        return bool(self._flights)

    async def join(self, key: str, work: Callable[[Report], Awaitable[Result]], report: Report) -> Result:
        """The result of ``work`` for ``key``: of the run that is under way, else of a new one; raises what it raises.

        ``report`` hears what the run reports. A cancelled caller leaves the others alone; the last one to leave cancels the run and returns when
        it has ended.
        """
        while (flight := self._flights.get(key)) is not None and not flight.listeners:
            await _ended(flight)  # its last waiter has gone and it is cleaning up
        if flight is None:
            flight = self._flights[key] = _Flight()
            flight.task = asyncio.create_task(_fly(flight, work))
            flight.task.add_done_callback(lambda task: self._land(key, task))
        assert flight.task is not None
        flight.listen(report)
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.listeners.remove(report)
            if not flight.listeners and not flight.task.done():
                flight.task.cancel()
                await _ended(flight)

    def _land(self, key: str, task: asyncio.Task[Result]) -> None:
        del self._flights[key]
        if not task.cancelled():
            task.exception()  # seen, even when all who would have been told have left


async def _fly(flight: _Flight[Result], work: Callable[[Report], Awaitable[Result]]) -> Result:
    return await work(flight.report)


async def _ended(flight: _Flight[Result]) -> None:
    """Wait until the run has ended, whatever came of it."""
    assert flight.task is not None
    await asyncio.wait({flight.task})
