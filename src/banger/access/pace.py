"""New connections to one port, spread in time: a server that accepts slowly, with a short queue, is not flooded.

Linux drops a SYN when a listener's queue is full, and TCP tries again only after 1, 3, 7 ... seconds (tcp(7), listen(2)): of a hundred connections at once to
a server with a backlog of 5, most would stall. The server's first byte says that it has accepted a connection, so few may wait for theirs at a time, and none
of them for long: a server that is silent for its own reasons, as with long polls, holds nobody up.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Final

WAITING: Final = 5
"""Connections to a port that may wait for their first byte; the smallest backlog in common use."""
PATIENCE_SECONDS: Final = 0.1
"""After so long in the server's queue, or in its hands, a connection does not keep the next one waiting any more."""


class Turn:
    """One connection's leave to begin, to be entered before it is dialled; it ends once, by whatever comes first."""

    def __init__(self, turns: asyncio.Semaphore) -> None:
        self._turns = turns
        self._held = False
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Turn:
        await self._turns.acquire()
        self._held = True
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.end()

    def connected(self) -> None:
        """It is in the server's queue now."""
        self._timer = asyncio.get_running_loop().call_later(PATIENCE_SECONDS, self.end)

    def end(self) -> None:
        """The server has begun to talk, or the connection is over."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._held:
            self._held = False
            self._turns.release()


class Pace:
    """The turns of each port of one machine."""

    def __init__(self) -> None:
        self._turns: dict[int, asyncio.Semaphore] = {}

    def turn(self, port: int) -> Turn:
        """A turn to connect to ``port``: first come, first served."""
        return Turn(self._turns.setdefault(port, asyncio.Semaphore(WAITING)))
