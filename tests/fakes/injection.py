"""Interrupting changes of a machine at a chosen point: the seam is the StepRunner, the product knows nothing of it.

A point is ``KIND/STEP:PHASE``. Phases of a step: ``before`` (its intent is in the journal, nothing is done), ``inside`` (where it first waits for
something), ``after`` (all is done, the journal does not know), ``undo`` and ``undone`` (before and after it is undone). Two more stand for the whole:
``KIND/open:before`` (nothing is in the journal) and ``KIND/finish:before`` (inside the last transaction), ``KIND/finish:after`` (committed, not told).
"""

from __future__ import annotations

import os
import signal
from collections.abc import Awaitable, Callable, Generator
from dataclasses import replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from banger.model.errors import BangerError
from banger.model.progress import Report
from banger.model.records import VMRecord
from banger.store import JournalEntry
from banger.vm.create import NewVM
from banger.vm.service import Machines
from banger.vm.steps import Context, Procedure, Scratch, Step, StepRunner

Reach = Callable[[str], None]
"""Called with the name of each point as it is reached; may raise, or not return at all."""
Result = TypeVar("Result")


class InjectedFailure(BangerError):
    """What a plan's ``raise`` raises."""


class _Midway(Generic[Result]):
    """Awaits ``work`` and calls ``reach`` when it first waits; what ``reach`` raises is raised where it waits."""

    def __init__(self, work: Awaitable[Result], reach: Callable[[], None]) -> None:
        self._work = work
        self._reach = reach

    def __await__(self) -> Generator[Any, Any, Result]:
        work: Any = self._work.__await__()
        try:
            waited_for = next(work)
            try:
                self._reach()
            except BaseException as error:  # handed to the work
                waited_for = work.throw(error)
            while True:
                try:
                    value = yield waited_for
                except BaseException as error:
                    waited_for = work.throw(error)
                else:
                    waited_for = work.send(value)
        except StopIteration as end:
            result: Result = end.value
            return result


def _watched_step(kind: str, step: Step[Context, Scratch], reach: Reach) -> Step[Context, Scratch]:
    point, undo = f"{kind}/{step.name}", step.undo

    async def run(context: Context, scratch: Scratch, report: Report) -> Context:
        reach(f"{point}:before")
        context = await _Midway(step.run(context, scratch, report), lambda: reach(f"{point}:inside"))
        reach(f"{point}:after")
        return context

    async def take_back(context: Context) -> None:
        assert undo is not None
        reach(f"{point}:undo")
        await undo(context)
        reach(f"{point}:undone")

    return replace(step, run=run, undo=take_back if undo else None)


class InjectingRunner(StepRunner):
    """A runner that says where it is."""

    def __init__(self, *arguments: Any, reach: Reach) -> None:
        super().__init__(*arguments)
        self._reach_point = reach

    def _watched(self, procedure: Procedure[Context, Scratch]) -> Procedure[Context, Scratch]:
        if isinstance(self._reach_point, Plan) and self._reach_point.idle:
            return procedure  # what nobody looks at costs nothing: the bench measures the product
        return replace(procedure, steps=tuple(_watched_step(procedure.kind, step, self._reach_point) for step in procedure.steps))

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
        def watched_finish(context: Context, scratch: Scratch) -> None:
            finish(context, scratch)
            self._reach_point(f"{procedure.kind}/finish:before")

        self._reach_point(f"{procedure.kind}/open:before")
        scratch = await super().perform(self._watched(procedure), context, vm_id=vm_id, report=report, finish=watched_finish, fail=fail)
        self._reach_point(f"{procedure.kind}/finish:after")
        return scratch

    async def recover(self, procedure: Procedure[Context, Scratch], entry: JournalEntry, *, report: Report, finish: Callable[[Context], None]) -> None:
        await super().recover(self._watched(procedure), entry, report=report, finish=finish)
        self._reach_point(f"{procedure.kind}/recovered:after")


class InjectedMachines(Machines):
    """Machines that also say when a new one has its row and nothing else."""

    reach: Reach

    async def create(self, new: NewVM, report: Report, on_reserved: Callable[[VMRecord], None]) -> VMRecord:
        def reserved(record: VMRecord) -> None:
            on_reserved(record)
            self.reach("vm.create/reserve:after")

        return await super().create(new, report, reserved)


class Plan:
    """A file of lines ``POINT ACTION``: ``kill`` ends this process, ``raise`` fails. Each line works once, also across daemons. Points that are
    reached are noted in the file ``trace`` beside it, where there is one."""

    def __init__(self, directory: Path) -> None:
        self.file = directory / "plan"
        self._trace = directory / "trace"

    def __call__(self, point: str) -> None:
        if self._trace.exists():
            with self._trace.open("a") as trace:
                trace.write(f"{point}\n")
        if not self.file.exists():
            return
        lines = self.file.read_text().splitlines()
        if not lines or lines[0].split()[0] != point:
            return
        action = lines[0].split()[1]
        self.write(lines[1:])
        if action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise InjectedFailure(f"injected at {point}")

    @property
    def idle(self) -> bool:
        """Whether no point is of interest to anybody at present."""
        return not (self._trace.exists() or self.file.exists())

    def write(self, lines: list[str]) -> None:
        """Replace the plan. Its lines work in order, in operations that begin from now on."""
        staged = self.file.with_name(f"plan.{os.getpid()}")
        staged.write_text("".join(f"{line}\n" for line in lines))
        staged.rename(self.file)

    def rest(self) -> list[str]:
        """The lines that have not worked yet."""
        return self.file.read_text().splitlines() if self.file.exists() else []

    def begin_trace(self) -> None:
        """Note points from now on."""
        self._trace.write_text("")

    def traced(self) -> list[str]:
        """The points since ``begin_trace``, each once, in order; ends the noting."""
        points = list(dict.fromkeys(self._trace.read_text().split()))
        self._trace.unlink()
        return points
