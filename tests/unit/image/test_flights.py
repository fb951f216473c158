"""One run for all who ask at once."""

from __future__ import annotations

import asyncio

import pytest

from banger.image.flights import Flights
from banger.model.progress import Report


class Work:
    """A run that can be held up, and counts."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.runs = 0
        self.cancelled = 0
        self.cleaned = 0
        self.gate = asyncio.Event()
        self.cleaning = asyncio.Event()
        self.failure = failure

    async def __call__(self, report: Report) -> int:
        self.runs += 1
        report("stage", "begun", progress=0.5)
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            await self.cleaning.wait()
            self.cleaned += 1
            raise
        if self.failure:
            raise self.failure
        return self.runs


class Heard:
    """A Report that remembers."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, float | None]] = []

    def __call__(self, stage: str, message: str = "", *, progress: float | None = None, warning: bool = False) -> None:
        self.events.append((stage, message, progress))


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_callers_at_once_share_one_run_and_all_hear_it() -> None:
    flights, work, heard = Flights[int](), Work(), [Heard(), Heard()]
    first = asyncio.create_task(flights.join("a", work, heard[0]))
    await settle()
    second = asyncio.create_task(flights.join("a", work, heard[1]))  # comes late and still hears where it stands
    await settle()
    work.gate.set()
    assert await first == await second == 1
    assert work.runs == 1
    assert heard[0].events == heard[1].events == [("stage", "begun", 0.5)]
    assert await flights.join("a", work, Heard()) == 2


async def test_keys_do_not_wait_for_each_other() -> None:
    flights, slow, quick = Flights[int](), Work(), Work()
    quick.gate.set()
    held = asyncio.create_task(flights.join("slow", slow, Heard()))
    await settle()
    assert await flights.join("quick", quick, Heard()) == 1
    slow.gate.set()
    await held


async def test_a_cancelled_caller_leaves_the_others_alone() -> None:
    flights, work = Flights[int](), Work()
    first, second = (asyncio.create_task(flights.join("a", work, Heard())) for _ in range(2))
    await settle()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    work.gate.set()
    assert await second == 1
    assert work.cancelled == 0


async def test_the_last_to_leave_ends_the_run_and_waits_for_its_cleaning() -> None:
    flights, work = Flights[int](), Work()
    callers = [asyncio.create_task(flights.join("a", work, Heard())) for _ in range(2)]
    await settle()
    for caller in callers:
        caller.cancel()
    await settle()
    assert (work.cancelled, work.cleaned, callers[0].done(), callers[1].done()) == (1, 0, True, False)
    work.cleaning.set()
    results = await asyncio.gather(*callers, return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError) for result in results)
    assert work.cleaned == 1


async def test_who_comes_while_it_is_cleaning_up_gets_a_run_of_its_own() -> None:
    flights, work = Flights[int](), Work()
    first = asyncio.create_task(flights.join("a", work, Heard()))
    await settle()
    first.cancel()
    await settle()
    second = asyncio.create_task(flights.join("a", work, Heard()))
    await settle()
    assert (work.runs, second.done()) == (1, False)
    work.gate.set()
    work.cleaning.set()
    assert await second == 2
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_who_waits_for_that_cleaning_can_leave_too() -> None:
    flights, work = Flights[int](), Work()
    first, second = asyncio.create_task(flights.join("a", work, Heard())), None
    await settle()
    first.cancel()
    await settle()
    second = asyncio.create_task(flights.join("a", work, Heard()))
    await settle()
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    work.cleaning.set()
    await asyncio.wait({first})
    assert work.runs == 1


async def test_a_caller_that_was_cancelled_before_it_asked() -> None:
    flights, work = Flights[int](), Work()
    work.cleaning.set()

    async def give_up_at_once() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await flights.join("a", work, Heard())

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(give_up_at_once())
    assert work.cleaned == work.runs
    work.gate.set()
    async with asyncio.timeout(5):
        assert await flights.join("a", work, Heard()) == work.runs


async def test_all_get_the_failure_and_the_next_call_tries_again() -> None:
    flights, work = Flights[int](), Work(ValueError("no"))
    work.gate.set()
    results = await asyncio.gather(*(flights.join("a", work, Heard()) for _ in range(3)), return_exceptions=True)
    assert [str(result) for result in results] == ["no"] * 3
    assert work.runs == 1
    work.failure = None
    assert await flights.join("a", work, Heard()) == 2
