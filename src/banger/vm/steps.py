"""Changes of a machine as tables of journalled steps.

A step's ``run`` gets the serialisable context (what a later daemon would need) and a scratch object (what only this run knows); it returns the
context as it is afterwards. ``undo`` gets the context alone and treats "already so" as success, because it may run in another process after a crash.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Generic, Literal, TypeVar

from ..model.errors import StoreError
from ..model.opid import current_op_id, new_op_id
from ..model.progress import Report
from ..store import Database, Journal, JournalEntry
from ..store.codec import from_json, to_json
from .interrupts import Interrupts

log = logging.getLogger(__name__)

Context = TypeVar("Context")
Scratch = TypeVar("Scratch")
Written = TypeVar("Written")


@dataclass(frozen=True, slots=True)
class Step(Generic[Context, Scratch]):
    """One named step; the name is a stable word that users see and grep."""

    name: str
    run: Callable[[Context, Scratch, Report], Awaitable[Context]]
    undo: Callable[[Context], Awaitable[None]] | None = None
    waits: bool = False
    """In a ``forward`` procedure: it only asks and waits, so that a cancellation can end it and the operation, and leave nothing to be finished."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Procedure(Generic[Context, Scratch]):
    """A change of a machine. ``recovery`` says what happens to one that a dead daemon left open: ``back`` undoes it, ``forward`` finishes it."""

    kind: str
    recovery: Literal["back", "forward"]
    context_type: type[Context]
    new_scratch: Callable[[], Scratch]
    settles: bool = True
    """Its success makes good whatever an earlier operation on the machine could not undo."""
    interruptible: bool = False
    """Who kills or deletes the machine does not wait for it, but ends it."""
    steps: tuple[Step[Context, Scratch], ...]


class StepRunner:
    """Runs procedures against the journal."""

    def __init__(self, database: Database, journal: Journal) -> None:
        self._database = database
        self._journal = journal
        self.interrupts = Interrupts()

    async def perform(
        self,
        procedure: Procedure[Context, Scratch],
        context: Context,
        *,
        vm_id: str,
        report: Report,
        finish: Callable[[Context, Scratch], None],
        fail: Callable[[BaseException], None],
    ) -> Scratch:
        """Run all steps, then ``finish`` and close the journal entry in one transaction.

        On failure or cancellation the failing step and those before it are undone in reverse, ``fail`` stores the failure, and the root cause
        is raised again (in an ExceptionGroup, first, when undos failed too). A ``forward`` procedure is not undone: a cancellation ends it while a
        step only waits, and is too late, and without effect, at any other time. An interruption (``interrupts``) is a cancellation that fails with its reason.
        """
        work = self._perform(procedure, context, vm_id, report, finish, fail)
        return await self.interrupts.run(vm_id, work) if procedure.interruptible else await work

    async def _perform(
        self,
        procedure: Procedure[Context, Scratch],
        context: Context,
        vm_id: str,
        report: Report,
        finish: Callable[[Context, Scratch], None],
        fail: Callable[[BaseException], None],
    ) -> Scratch:
        op_id = current_op_id.get() or new_op_id()
        scratch = procedure.new_scratch()
        entry = self._open(procedure, op_id, vm_id, to_json(context))
        try:
            walk = self._walk(procedure, context, scratch, entry, report, vm_id)
            context = await walk if procedure.recovery == "back" else await self._to_the_end(procedure, entry, walk)
            self._conclude(procedure, entry, vm_id, lambda: finish(context, scratch))
        except BaseException as error:
            cause = self.interrupts.cause(error)
            context, reached = self._reached(procedure, entry, context)
            # In a task of its own, so that a second cancellation cannot cut the rollback short.
            rollback = asyncio.create_task(self._give_up(procedure, context, reached, entry, cause, fail, vm_id))
            undo_errors = await _uninterrupted(rollback)
            if undo_errors and isinstance(cause, Exception):
                raise ExceptionGroup(str(cause), [cause, *undo_errors]) from cause
            if cause is not error:
                raise cause from None
            raise
        finally:
            self._database.keep_ballast()
        return scratch

    def _conclude(self, procedure: Procedure[Context, Scratch], entry: int, vm_id: str, finish: Callable[[], None]) -> None:
        def commit() -> None:
            with self._database.transaction():
                finish()
                if procedure.settles:
                    self._journal.close_all(vm_id)
                else:
                    self._journal.close(entry)

        self._write(procedure, commit)

    async def recover(self, procedure: Procedure[Context, Scratch], entry: JournalEntry, *, report: Report, finish: Callable[[Context], None]) -> None:
        """Undo or finish an operation that a dead daemon left open, then ``finish`` and close the entry in one transaction."""
        context = from_json(entry.context, procedure.context_type)
        log.info(
            "recover", extra={"kind": procedure.kind, "direction": procedure.recovery, "vm_id": entry.vm_id, "step": entry.step, "original_op_id": entry.op_id}
        )
        if procedure.recovery == "back":
            errors = await _undo(procedure, context, entry.step, entry.vm_id)
            if errors:
                raise ExceptionGroup(f"rolling back {procedure.kind} failed", errors)
        else:
            scratch = procedure.new_scratch()
            first = entry.step + 1 if entry.done else max(entry.step, 0)
            context = await self._walk(procedure, context, scratch, entry.id, report, entry.vm_id, first=first)
        with self._database.transaction():
            finish(context)
            self._journal.close(entry.id)

    def _open(self, procedure: Procedure[Context, Scratch], op_id: str, vm_id: str, context: str) -> int:
        return self._write(procedure, lambda: self._journal.open(op_id=op_id, kind=procedure.kind, vm_id=vm_id, context=context))

    def _write(self, procedure: Procedure[Context, Scratch], write: Callable[[], Written]) -> Written:
        """Write to the database. What goes forward ends or frees something, so on a full disk it gets the reserve."""
        try:
            return write()
        except StoreError:
            if procedure.recovery == "back" or not self._database.spend_ballast():
                raise
            return write()

    def _note_begun(self, procedure: Procedure[Context, Scratch], index: int, entry: int, vm_id: str, context: str) -> None:
        with self._database.transaction():
            self._journal.write(entry, step=index, done=False, context=context)
            self._database.events.append("stage", vm_id, operation=procedure.kind, stage=procedure.steps[index].name)

    async def _walk(
        self, procedure: Procedure[Context, Scratch], context: Context, scratch: Scratch, entry: int, report: Report, vm_id: str, *, first: int = 0
    ) -> Context:
        for index, step in enumerate(procedure.steps[first:], start=first):
            self._write(procedure, partial(self._note_begun, procedure, index, entry, vm_id, to_json(context)))
            report(step.name)
            began = time.monotonic()
            context = await step.run(context, scratch, report)
            self._write(procedure, partial(self._journal.write, entry, step=index, done=True, context=to_json(context)))
            log.info("step", extra={"kind": procedure.kind, "step": step.name, "vm_id": vm_id, "ms": round((time.monotonic() - began) * 1000, 1)})
        return context

    async def _to_the_end(self, procedure: Procedure[Context, Scratch], entry: int, walk: Coroutine[None, None, Context]) -> Context:
        """The result of ``walk``, to which a cancellation is passed on only while its present step does nothing but wait."""
        task = asyncio.create_task(walk)
        while not task.done():
            try:
                await asyncio.wait((task,))
            except asyncio.CancelledError:
                if self._is_waiting(procedure, entry):
                    task.cancel()
                else:
                    log.info("too late to cancel, it is finished", extra={"kind": procedure.kind})
        return task.result()

    def _is_waiting(self, procedure: Procedure[Context, Scratch], entry_id: int) -> bool:
        entry = next((entry for entry in self._journal.entries() if entry.id == entry_id), None)
        return entry is None or entry.step < 0 or (procedure.steps[entry.step].waits and not entry.done)

    def _reached(self, procedure: Procedure[Context, Scratch], entry_id: int, context: Context) -> tuple[Context, int]:
        for entry in self._journal.entries():
            if entry.id == entry_id:
                return from_json(entry.context, procedure.context_type), entry.step
        return context, len(procedure.steps) - 1

    async def _give_up(
        self,
        procedure: Procedure[Context, Scratch],
        context: Context,
        reached: int,
        entry: int,
        cause: BaseException,
        fail: Callable[[BaseException], None],
        vm_id: str,
    ) -> list[Exception]:
        log.warning("operation failed", extra={"kind": procedure.kind, "vm_id": vm_id, "error": str(cause) or type(cause).__name__})
        errors = await _undo(procedure, context, reached, vm_id) if procedure.recovery == "back" else []
        try:
            with self._database.transaction():
                stage = procedure.steps[reached].name if reached >= 0 else ""
                self._database.events.append("failure", vm_id, operation=procedure.kind, stage=stage, message=str(cause) or type(cause).__name__)
                fail(cause)
                if not errors and not _is_half_done(procedure, reached, cause):
                    self._journal.close(entry)
        except Exception as error:  # noqa: BLE001 - joined with the root cause and raised
            log.warning("could not store the failure", extra={"vm_id": vm_id, "error": str(error)})
            errors.append(error)
        return errors


def _is_half_done(procedure: Procedure[Context, Scratch], reached: int, cause: BaseException) -> bool:
    """Whether it must go forward and this process was torn out of it, so that the next daemon has to finish it."""
    return procedure.recovery == "forward" and not isinstance(cause, Exception) and reached >= 0 and not procedure.steps[reached].waits


async def _undo(procedure: Procedure[Context, Scratch], context: Context, reached: int, vm_id: str) -> list[Exception]:
    errors: list[Exception] = []
    for step in reversed(procedure.steps[: reached + 1]):
        if step.undo is None:
            continue
        try:
            await step.undo(context)
        except Exception as error:
            log.warning("undo failed", extra={"kind": procedure.kind, "step": step.name, "vm_id": vm_id, "error": str(error)}, exc_info=True)
            errors.append(error)
    return errors


async def _uninterrupted(task: asyncio.Future[list[Exception]]) -> list[Exception]:
    """The task's result, however often this task is cancelled meanwhile; the cancellation is what the caller raises anyway."""
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise
    return task.result()
