"""The step runner: order, rollback, joined errors, the journal, and recovery in both directions."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pytest

from banger.model.progress import Report, silent
from banger.store import Database, Journal
from banger.vm.steps import Procedure, Step, StepRunner


@dataclass(frozen=True)
class Trail:
    made: tuple[str, ...] = ()


class World:
    """Records what ran; ``breaks`` makes a step fail after it did half of its work, ``undo_breaks`` makes an undo fail."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.breaks: str = ""
        self.undo_breaks: set[str] = set()
        self.hang: asyncio.Event | None = None

    def step(self, name: str, *, undo: bool = True) -> Step[Trail, list[str]]:
        async def run(context: Trail, scratch: list[str], report: Report) -> Trail:
            self.log.append(f"run {name}")
            if self.breaks == name:
                raise RuntimeError(f"{name} broke")
            if self.breaks == f"hang {name}":
                await asyncio.sleep(60)
            scratch.append(name)
            return replace(context, made=(*context.made, name))

        async def take_back(context: Trail) -> None:
            await asyncio.sleep(0)
            self.log.append(f"undo {name} {','.join(context.made)}")
            if name in self.undo_breaks:
                raise OSError(f"undo of {name} broke")

        return Step(name, run, take_back if undo else None)

    def procedure(self, recovery: Literal["back", "forward"] = "back") -> Procedure[Trail, list[str]]:
        steps = (self.step("a"), self.step("b", undo=False), self.step("c"), self.step("d"))
        return Procedure(kind="test", recovery=recovery, context_type=Trail, new_scratch=list, steps=steps)


@dataclass
class Bench:
    world: World
    runner: StepRunner
    journal: Journal
    finished: list[Trail]
    failed: list[str]

    def perform(self, procedure: Procedure[Trail, list[str]], report: Report = silent) -> Awaitable[list[str]]:
        finish: Callable[[Trail, list[str]], None] = lambda context, _: self.finished.append(context)  # noqa: E731
        return self.runner.perform(procedure, Trail(), vm_id="vm", report=report, finish=finish, fail=lambda error: self.failed.append(repr(error)))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    database = Database.open(tmp_path / "banger.db")
    journal = Journal(database)
    yield Bench(World(), StepRunner(database, journal), journal, [], [])
    database.close()


async def test_the_happy_path_undoes_nothing_and_closes_the_entry(bench: Bench) -> None:
    stages: list[str] = []

    def report(stage: str, message: str = "", *, progress: float | None = None, warning: bool = False) -> None:
        stages.append(stage)

    assert await bench.perform(bench.world.procedure(), report) == ["a", "b", "c", "d"]
    assert bench.world.log == ["run a", "run b", "run c", "run d"]
    assert stages == ["a", "b", "c", "d"]
    assert bench.finished == [Trail(("a", "b", "c", "d"))]
    assert bench.failed == []
    assert bench.journal.entries() == ()


async def test_rollback_is_reverse_includes_the_failing_step_and_skips_steps_without_undo(bench: Bench) -> None:
    bench.world.breaks = "c"
    with pytest.raises(RuntimeError, match="c broke"):
        await bench.perform(bench.world.procedure())
    assert bench.world.log == ["run a", "run b", "run c", "undo c a,b", "undo a a,b"]
    assert bench.failed == ["RuntimeError('c broke')"]
    assert bench.finished == []
    assert bench.journal.entries() == ()


async def test_undo_errors_are_joined_behind_the_root_cause_and_the_entry_stays_for_the_next_daemon(bench: Bench) -> None:
    bench.world.breaks = "d"
    bench.world.undo_breaks = {"c", "a"}
    with pytest.raises(ExceptionGroup) as caught:
        await bench.perform(bench.world.procedure())
    assert [str(error) for error in caught.value.exceptions] == ["d broke", "undo of c broke", "undo of a broke"]
    assert bench.world.log[4:] == ["undo d a,b,c", "undo c a,b,c", "undo a a,b,c"]
    (entry,) = bench.journal.entries()
    assert entry.step == 3

    bench.world.undo_breaks = set()
    bench.world.log.clear()
    await bench.runner.recover(bench.world.procedure(), entry, report=silent, finish=bench.finished.append)
    assert bench.world.log == ["undo d a,b,c", "undo c a,b,c", "undo a a,b,c"]
    assert bench.journal.entries() == ()


@pytest.mark.parametrize(("settles", "left"), [(True, []), (False, ["test"])])
async def test_a_success_makes_good_what_an_earlier_operation_could_not_undo(bench: Bench, settles: bool, left: list[str]) -> None:
    bench.world.breaks, bench.world.undo_breaks = "d", {"a"}
    with pytest.raises(ExceptionGroup):
        await bench.perform(bench.world.procedure())
    bench.world.breaks = ""
    await bench.perform(replace(bench.world.procedure(), settles=settles))
    assert [entry.kind for entry in bench.journal.entries()] == left


async def test_a_cancelled_operation_is_rolled_back_even_when_cancelled_again(bench: Bench) -> None:
    bench.world.breaks = "hang c"
    task = asyncio.ensure_future(bench.perform(bench.world.procedure()))
    while "run c" not in bench.world.log:
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert bench.world.log[3:] == ["undo c a,b", "undo a a,b"]
    assert bench.failed == ["CancelledError()"]


async def test_a_failure_in_finish_rolls_everything_back(bench: Bench) -> None:
    def finish(context: Trail, scratch: list[str]) -> None:
        raise ValueError("row gone")

    with pytest.raises(ValueError, match="row gone"):
        await bench.runner.perform(
            bench.world.procedure(), Trail(), vm_id="vm", report=silent, finish=finish, fail=lambda error: bench.failed.append(str(error))
        )
    assert [line.split()[:2] for line in bench.world.log[4:]] == [["undo", "d"], ["undo", "c"], ["undo", "a"]]


@pytest.mark.parametrize(
    ("step", "done", "undone"),
    [(-1, True, []), (0, False, ["undo a "]), (0, True, ["undo a "]), (2, False, ["undo c ", "undo a "]), (3, True, ["undo d ", "undo c ", "undo a "])],
)
async def test_recovery_backwards_undoes_what_had_begun(bench: Bench, step: int, done: bool, undone: list[str]) -> None:
    entry = bench.journal.open(op_id="op", kind="test", vm_id="vm", context='{"made":[]}')
    bench.journal.write(entry, step=step, done=done, context='{"made":[]}')
    (left,) = bench.journal.entries()
    await bench.runner.recover(bench.world.procedure(), left, report=silent, finish=bench.finished.append)
    assert bench.world.log == undone
    assert bench.journal.entries() == ()


@pytest.mark.parametrize(("step", "done", "ran"), [(-1, True, "abcd"), (0, False, "abcd"), (0, True, "bcd"), (2, False, "cd"), (3, True, "")])
async def test_recovery_forwards_runs_what_is_not_done(bench: Bench, step: int, done: bool, ran: str) -> None:
    entry = bench.journal.open(op_id="op", kind="test", vm_id="vm", context='{"made":[]}')
    bench.journal.write(entry, step=step, done=done, context='{"made":[]}')
    (left,) = bench.journal.entries()
    await bench.runner.recover(bench.world.procedure("forward"), left, report=silent, finish=bench.finished.append)
    assert bench.world.log == [f"run {name}" for name in ran]
    assert bench.finished == [Trail(tuple(ran))]
    assert bench.journal.entries() == ()


async def test_a_forward_operation_that_fails_is_over(bench: Bench) -> None:
    bench.world.breaks = "c"
    with pytest.raises(RuntimeError):
        await bench.perform(bench.world.procedure("forward"))
    assert bench.world.log == ["run a", "run b", "run c"]
    assert bench.journal.entries() == ()


async def test_a_forward_operation_that_only_waits_can_be_cancelled_and_is_over(bench: Bench) -> None:
    bench.world.breaks = "hang c"
    forward = bench.world.procedure("forward")
    waiting = replace(forward, steps=tuple(replace(step, waits=step.name == "c") for step in forward.steps))
    task = asyncio.ensure_future(bench.perform(waiting))
    while "run c" not in bench.world.log:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert bench.world.log == ["run a", "run b", "run c"]
    assert (bench.failed, bench.finished) == (["CancelledError()"], [])
    assert bench.journal.entries() == ()


async def test_a_forward_operation_that_has_begun_its_work_is_finished_however_often_it_is_cancelled(bench: Bench) -> None:
    gate = asyncio.Event()

    async def run(context: Trail, scratch: list[str], report: Report) -> Trail:
        bench.world.log.append("run slow")
        await gate.wait()
        return context

    forward = bench.world.procedure("forward")
    steps = (replace(forward.steps[0], waits=True), Step("slow", run), *forward.steps[2:])
    task = asyncio.ensure_future(bench.perform(replace(forward, steps=steps)))
    while "run slow" not in bench.world.log:
        await asyncio.sleep(0)
    for _ in range(2):
        task.cancel()
        await asyncio.sleep(0)
    gate.set()
    await task
    assert bench.world.log == ["run a", "run slow", "run c", "run d"]
    assert (len(bench.finished), bench.failed) == (1, [])
    assert bench.journal.entries() == ()
