"""Changes of a machine as tables of journalled steps.

A step's ``run`` gets the serialisable context (what a later daemon would need) and a scratch object (what only this run knows); it returns the
context as it is afterwards. ``undo`` gets the context alone and treats "already so" as success, because it may run in another process after a crash.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from ..model.errors import StoreError
from ..model.opid import current_op_id, new_op_id
from ..model.progress import Report
from ..store import Database, Journal, JournalEntry
from ..store.codec import from_json, to_json

log = logging.getLogger(__name__)

Context = TypeVar("Context")
Scratch = TypeVar("Scratch")


@dataclass(frozen=True, slots=True)
class Step(Generic[Context, Scratch]):
    """One named step; the name is a stable word that users see and grep."""

    name: str
    run: Callable[[Context, Scratch, Report], Awaitable[Context]]
    undo: Callable[[Context], Awaitable[None]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Procedure(Generic[Context, Scratch]):
    """A change of a machine. ``recovery`` says what happens to one that a dead daemon left open: ``back`` undoes it, ``forward`` finishes it."""

    kind: str
    recovery: Literal["back", "forward"]
    context_type: type[Context]
    new_scratch: Callable[[], Scratch]
    settles: bool = True
    """Its success makes good whatever an earlier operation on the machine could not undo."""
    steps: tuple[Step[Context, Scratch], ...]


class StepRunner:
    """Runs procedures against the journal."""

    def __init__(self, database: Database, journal: Journal) -> None:
        self._database = database
        self._journal = journal

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
        is raised again (in an ExceptionGroup, first, when undos failed too). A ``forward`` procedure is not undone; if it was interrupted, the
        next daemon finishes it.
        """
        op_id = current_op_id.get() or new_op_id()
        scratch = procedure.new_scratch()
        entry = self._open(procedure, op_id, vm_id, to_json(context))
        try:
            context = await self._walk(procedure, context, scratch, entry, report, vm_id)
            with self._database.transaction():
                finish(context, scratch)
                if procedure.settles:
                    self._journal.close_all(vm_id)
                else:
                    self._journal.close(entry)
            self._database.keep_ballast()
        except BaseException as cause:
            context, reached = self._reached(procedure, entry, context)
            # In a task of its own, so that a second cancellation cannot cut the rollback short.
            rollback = asyncio.create_task(self._give_up(procedure, context, reached, entry, cause, fail, vm_id))
            undo_errors = await _uninterrupted(rollback)
            if undo_errors and isinstance(cause, Exception):
                raise ExceptionGroup(str(cause), [cause, *undo_errors]) from cause
            raise
        return scratch

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
        """Begin in the journal. What goes forward ends or frees something, so on a full disk it gets the reserve."""
        try:
            return self._journal.open(op_id=op_id, kind=procedure.kind, vm_id=vm_id, context=context)
        except StoreError:
            if procedure.recovery == "back" or not self._database.spend_ballast():
                raise
            return self._journal.open(op_id=op_id, kind=procedure.kind, vm_id=vm_id, context=context)

    async def _walk(
        self, procedure: Procedure[Context, Scratch], context: Context, scratch: Scratch, entry: int, report: Report, vm_id: str, *, first: int = 0
    ) -> Context:
        for index, step in enumerate(procedure.steps[first:], start=first):
            with self._database.transaction():
                self._journal.write(entry, step=index, done=False, context=to_json(context))
                self._database.events.append("stage", vm_id, operation=procedure.kind, stage=step.name)
            report(step.name)
            began = time.monotonic()
            context = await step.run(context, scratch, report)
            self._journal.write(entry, step=index, done=True, context=to_json(context))
            log.info("step", extra={"kind": procedure.kind, "step": step.name, "vm_id": vm_id, "ms": round((time.monotonic() - began) * 1000, 1)})
        return context

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
                if not _stays_open(procedure, cause, undo_failed=bool(errors)):
                    self._journal.close(entry)
        except Exception as error:  # noqa: BLE001 - joined with the root cause and raised
            log.warning("could not store the failure", extra={"vm_id": vm_id, "error": str(error)})
            errors.append(error)
        return errors


def _stays_open(procedure: Procedure[Context, Scratch], cause: BaseException, *, undo_failed: bool) -> bool:
    """Whether the next daemon has to go on with it: its rollback is incomplete, or it must go forward and was only interrupted."""
    return undo_failed if procedure.recovery == "back" else not isinstance(cause, Exception)


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
