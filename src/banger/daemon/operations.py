"""Operations: work that takes time, with an id, events that anybody may follow, and a way to cancel it.

They live in memory. What must survive the daemon is in the machines' journal; after a restart an operation's id is not known any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Final, Literal

import msgspec

from ..api import types as t
from ..api.codec import clean, encode_line, error_from_body, raw
from ..model.errors import BangerError, Cancelled, NotFound
from ..model.opid import current_op_id
from ..model.progress import Report
from .failures import describe

log = logging.getLogger(__name__)

State = Literal["running", "done", "failed", "cancelled"]

MAX_EVENTS: Final = 1000
"""Events kept per operation; a follower that comes late or reads slowly sees a marker in place of older ones."""
MAX_RUNNING: Final = 256
MAX_FINISHED: Final = 200
_MAX_MESSAGE: Final = 8192


class Operation:
    """One piece of work. ``report`` is what the work tells its progress to (a model.progress.Report)."""

    def __init__(self, op_id: str, kind: str, target: str) -> None:
        self.id = op_id
        self.kind = kind
        self.target = target
        self.state: State = "running"
        self.stage = ""
        self.started_at = self.updated_at = time.time()
        self.error: t.ErrorBody | None = None
        self.ended = asyncio.Event()
        self.ends_with_followers = False
        """Cancel when the last follower leaves: what a request is, until something is made that outlives it."""
        self._began = time.monotonic()
        self._lines: deque[bytes] = deque()
        self._dropped = 0
        self._news = asyncio.Event()
        self._followers = 0
        self._task: asyncio.Task[msgspec.Raw] | None = None
        self._cancelled = False

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self.state == "running"

    def report(self, stage: str, message: str = "", *, progress: float | None = None, warning: bool = False) -> None:
        """Tell all followers what is being done."""
        if self.running:
            self.stage = stage
            self._publish(t.Event(stage=stage, message=clean(message[:_MAX_MESSAGE]), progress=progress, elapsed=self._elapsed(), warning=warning))

    def describe(self) -> t.Operation:
        """The operation as the contract shows it."""
        return t.Operation(
            id=self.id,
            kind=self.kind,
            target=self.target,
            state=self.state,
            stage=self.stage,
            started_at=self.started_at,
            updated_at=self.updated_at,
            error=self.error,
        )

    def start(self, work: Callable[[Operation], Awaitable[object]], on_end: Callable[[Operation], None]) -> None:
        """Run ``work`` in a task of its own; ``on_end`` is called when it has ended, however."""

        async def run() -> msgspec.Raw:
            return raw(await work(self))

        log.info("operation begins", extra={"kind": self.kind, "target": self.target})
        self._task = asyncio.create_task(run(), name=f"operation {self.id} {self.kind}")
        self._task.add_done_callback(self._conclude)
        self._task.add_done_callback(lambda _: on_end(self))

    def cancel(self) -> None:
        """Ask it to end; it rolls back first, and asking again does not disturb that. Nothing happens when it has ended."""
        if self._task is not None and not self._cancelled:
            self._cancelled = True
            self._task.cancel()

    @contextmanager
    def followed(self) -> Iterator[AsyncIterator[bytes]]:
        """Event lines from the first kept one to the last, in chunks of whole lines, for as long as the context is open."""
        self._followers += 1
        try:
            yield self._chunks()
        finally:
            self._followers -= 1
            if self._followers == 0 and self.ends_with_followers and self.running:
                log.info("nobody waits any more, cancelling", extra={"operation": self.id, "kind": self.kind})
                self.cancel()

    async def _chunks(self) -> AsyncIterator[bytes]:
        number = 0
        while True:
            news, ended = self._news, self.ended.is_set()
            lines = list(self._lines)[max(0, number - self._dropped) :]
            if number < self._dropped:
                lines.insert(0, encode_line(t.Event(message=f"{self._dropped - number} earlier events are not kept", elapsed=self._elapsed())))
            number = self._dropped + len(self._lines)
            if lines:
                yield b"".join(lines)
            if ended:
                return
            await news.wait()

    def _conclude(self, task: asyncio.Task[msgspec.Raw]) -> None:
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is None:
            self.state = "done"
            last = t.Event(stage=self.stage, elapsed=self._elapsed(), done=True, result=task.result())
        else:
            self.error = describe(error, self.id)
            self.state = "cancelled" if self.error.code == Cancelled.code else "failed"
            last = t.Event(stage=self.stage, elapsed=self._elapsed(), done=True, error=self.error)
        self.ended.set()
        self._publish(last)
        log.info("operation ended", extra={"kind": self.kind, "target": self.target, "state": self.state, "seconds": self._elapsed()})

    def _publish(self, event: t.Event) -> None:
        self.updated_at = time.time()
        self._lines.append(encode_line(event))
        if len(self._lines) > MAX_EVENTS:
            self._lines.popleft()
            self._dropped += 1
        news, self._news = self._news, asyncio.Event()
        news.set()

    def _elapsed(self) -> float:
        return round(time.monotonic() - self._began, 3)


class Operations:
    """The operations of this daemon: those that run, and the last ones that ended."""

    def __init__(self) -> None:
        self._running: dict[str, Operation] = {}
        self._finished: deque[Operation] = deque(maxlen=MAX_FINISHED)
        self._closing = False

    def start(self, kind: str, target: str, work: Callable[[Operation], Awaitable[object]], *, ends_with_followers: bool = False) -> Operation:
        """Start ``work`` under the op id of the present request.

        Raises BangerError when too much runs already, or the daemon is stopping.
        """
        if self._closing:
            raise BangerError("the daemon is stopping", hint="try again")
        if len(self._running) >= MAX_RUNNING:
            raise BangerError(f"{MAX_RUNNING} operations run already", hint="wait for some of them to end")
        operation = Operation(current_op_id.get(), kind, target)
        operation.ends_with_followers = ends_with_followers
        self._running[operation.id] = operation
        operation.start(work, self._keep)
        return operation

    async def carry_out(self, kind: str, target: str, work: Callable[[Report], Awaitable[object]]) -> None:
        """Work that the daemon itself began, such as stopping an idle machine, as an operation; returns when it has ended.

        Raises what it failed with, and what ``start`` raises; cancelling the caller cancels it.
        """
        operation = self.start(kind, target, lambda one: work(one.report))
        try:
            await operation.ended.wait()
        except asyncio.CancelledError:
            operation.cancel()
            await operation.ended.wait()
            raise
        if operation.error is not None:
            raise error_from_body(operation.error)

    def _keep(self, operation: Operation) -> None:
        del self._running[operation.id]
        self._finished.append(operation)

    def find(self, op_id: str) -> Operation:
        """The operation of this id. Raises NotFound."""
        found = self._running.get(op_id) or next((one for one in self._finished if one.id == op_id), None)
        if found is None:
            raise NotFound(f"no operation {op_id!r}", hint="the daemon forgets operations when it restarts; banger vm list shows what became of the machines")
        return found

    def list(self) -> tuple[Operation, ...]:
        """All of them, the newest first."""
        return tuple(sorted([*self._running.values(), *self._finished], key=lambda one: one.started_at, reverse=True))

    async def close(self, *, grace: float, deadline: float) -> None:
        """Let running operations end for ``grace`` seconds, then cancel them and wait up to ``deadline`` seconds for their rollback."""
        self._closing = True
        await self._wait(grace)
        for operation in list(self._running.values()):
            operation.cancel()
        await self._wait(deadline)
        for operation in self._running.values():
            log.error("operation did not end in time; the next daemon recovers it", extra={"operation": operation.id, "kind": operation.kind})

    async def _wait(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                for operation in list(self._running.values()):
                    await operation.ended.wait()
