"""Stopping machines that nobody uses, or whose time is over. One task that sleeps until the next deadline; deadlines follow from the rows."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from ..guest.agent import GuestStats
from ..model.durations import format_duration
from ..model.errors import BangerError, NotFound
from ..model.opid import current_op_id, new_op_id
from ..model.progress import Report, silent
from ..model.records import VMRecord
from .activity import Activity

log = logging.getLogger(__name__)

BUSY_LOAD = 0.5
"""A guest with at least this load average (over a minute) is at work, though nobody is connected."""
_ASK_SECONDS = 3.0
_GRACE_SECONDS = 60.0
"""After the daemon's start nobody's machine is idle for so long: its streams ended with the old daemon, and their owners may come back."""
_RETRY_SECONDS = 30.0
"""At most so long until a guest that was busy, or did not answer, is asked again, and until a stop that failed is tried again."""


CarryOut = Callable[[str, str, Callable[[Report], Awaitable[object]]], Awaitable[None]]
"""Gets the kind, the target and the work of something that the daemon does by itself, and runs it to its end where users can see it."""


async def carry_out_unseen(kind: str, target: str, work: Callable[[Report], Awaitable[object]]) -> None:
    """Where nobody keeps a list of what is done."""
    await work(silent)


@dataclass(frozen=True, slots=True)
class Deadline:
    """When a machine is to be stopped (``time.monotonic``) and why."""

    when: float
    reason: str
    idle: bool
    """Only if the guest is not busy."""


class AutoStop:
    """Decides which machine is stopped when. ``running`` lists the candidates, ``ask`` gets a guest's statistics, ``stop`` stops with a reason."""

    def __init__(
        self,
        *,
        running: Callable[[], tuple[VMRecord, ...]],
        ask: Callable[[str], Awaitable[GuestStats]],
        stop: Callable[[str, str, Callable[[VMRecord], bool]], Awaitable[object]],
        stale_after: float,
    ) -> None:
        """``stop`` gets the id, the reason, and what is to be asked once the machine's lock is held: whether it is still due.

        ``stale_after``: seconds of idleness for machines that have no ``--idle`` of their own; 0 = never.
        """
        self._running, self._ask, self._stop, self._stale_after = running, ask, stop, stale_after
        self.activity = Activity(self._changed)
        self._wake = asyncio.Event()
        self._began = -math.inf
        self._not_before: dict[tuple[str, bool], float] = {}
        """Id and kind of a deadline (idle or not) -> when it may be looked at again."""
        self._task: asyncio.Task[None] | None = None
        self._ending: dict[str, asyncio.Task[None]] = {}

    def start(self) -> None:
        """Begin to watch the deadlines; once."""
        if self._task is None:
            self._began = time.monotonic()
            self._task = asyncio.create_task(self._run(), name="auto-stop")

    async def close(self) -> None:
        """End. A stop for which a guest is being waited for is given up; the next daemon finds the machine due again."""
        tasks = [*([self._task] if self._task is not None else []), *self._ending.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._task = None

    def deadlines(self, record: VMRecord) -> list[Deadline]:
        """When this running machine may be stopped, as things are; the hard one, from ``--ttl``, is first."""
        idle = self._idle(record)
        found = []
        if record.spec.ttl_seconds > 0:
            when = self.activity.started_at(record) + record.spec.ttl_seconds
            found.append(Deadline(when, f"it has run for {format_duration(record.spec.ttl_seconds)} (--ttl)", idle=False))
        if idle > 0 and self.activity.streams(record) == 0:
            why = "auto_stop_stale_after" if record.spec.idle_seconds is None else "--idle"
            when = max(self.activity.used_at(record) + idle, self._began + min(idle, _GRACE_SECONDS))
            found.append(Deadline(when, f"nobody has used it for {format_duration(idle)} ({why})", idle=True))
        return found

    def note_change(self, record: VMRecord) -> None:
        """The machine's ``--ttl`` or ``--idle`` may have changed: forget what was put off, and look anew."""
        self._not_before = {key: when for key, when in self._not_before.items() if key[0] != record.id}
        self._wake.set()

    def _idle(self, record: VMRecord) -> float:
        return self._stale_after if record.spec.idle_seconds is None else record.spec.idle_seconds

    def _changed(self, record: VMRecord) -> None:
        if self.deadlines(record):
            self._wake.set()

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            pause = None
            try:
                pause = self._look()
            except Exception:
                log.exception("auto-stop cannot look at the machines")
                pause = _RETRY_SECONDS
            try:
                async with asyncio.timeout(pause):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def _look(self) -> float | None:
        """Begin what is due; returns the seconds until the next deadline, None when there is none."""
        now = time.monotonic()
        records = {record.id: record for record in self._running()}
        self.activity.retain(records)
        self._not_before = {key: when for key, when in self._not_before.items() if key[0] in records}
        pauses = []
        for record in records.values():
            if record.id in self._ending:
                continue
            waits = [(max(one.when, self._not_before.get((record.id, one.idle), -math.inf)) - now, one) for one in self.deadlines(record)]
            if due := [one for wait, one in waits if wait <= 0]:
                self._begin(record, due[0])
            else:
                pauses += [wait for wait, _ in waits]
        return min(pauses, default=None)

    def _begin(self, record: VMRecord, deadline: Deadline) -> None:
        task = self._ending[record.id] = asyncio.create_task(self._end(record, deadline), name=f"auto-stop {record.name}")

        def ended(_: asyncio.Task[None]) -> None:
            del self._ending[record.id]
            self._wake.set()

        task.add_done_callback(ended)

    async def _end(self, record: VMRecord, deadline: Deadline) -> None:
        current_op_id.set(new_op_id())
        labels = {"vm_id": record.id, "vm_name": record.name, "reason": deadline.reason}

        def still_due(current: VMRecord) -> bool:
            """Somebody may have come while the guest was asked, or while another operation had the machine."""
            due = any(one.idle == deadline.idle and one.when <= time.monotonic() for one in self.deadlines(current))
            if due:
                log.info("stopping_vm", extra=labels)
            return due

        try:
            if deadline.idle and await self._is_busy(record, labels):
                self._not_before[record.id, True] = time.monotonic() + min(self._idle(record), _RETRY_SECONDS)
                return
            await self._stop(record.id, deadline.reason, still_due)
        except NotFound:
            return
        except (BangerError, ExceptionGroup):
            log.exception("auto-stop failed, trying again later", extra=labels)
            self._not_before[record.id, deadline.idle] = time.monotonic() + _RETRY_SECONDS

    async def _is_busy(self, record: VMRecord, labels: dict[str, str]) -> bool:
        """A guest that does not answer counts as busy: what we cannot judge we do not stop."""
        try:
            async with asyncio.timeout(_ASK_SECONDS):
                load = (await self._ask(record.id)).load
        except (TimeoutError, BangerError) as error:
            log.warning("a machine is due to be stopped, but its guest does not answer", extra={**labels, "error": str(error)})
            return True
        if load >= BUSY_LOAD:
            log.info("a machine that nobody uses is busy", extra={**labels, "load": load})
        return load >= BUSY_LOAD
