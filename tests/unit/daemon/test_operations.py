from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from banger.daemon import operations as module
from banger.daemon.operations import Operation, Operations
from banger.model.errors import BadRequest, BangerError, NotFound
from banger.model.opid import current_op_id, new_op_id
from banger.model.progress import Report


@pytest.fixture(autouse=True)
async def op_id() -> AsyncIterator[None]:
    token = current_op_id.set(new_op_id())
    yield
    current_op_id.reset(token)


async def follow(operation: Operation) -> list[dict[str, Any]]:
    with operation.followed() as chunks:
        return [json.loads(line) for chunk in [chunk async for chunk in chunks] for line in chunk.splitlines()]


async def test_followers_see_every_event_and_the_result_however_late_they_come() -> None:
    gate = asyncio.Event()

    async def work(operation: Operation) -> dict[str, int]:
        operation.report("one", "first", progress=0.25)
        await gate.wait()
        operation.report("two", "second", warning=True)
        return {"answer": 42}

    current_op_id.set(new_op_id())
    operation = Operations().start("test", "box", work)
    early = [asyncio.create_task(follow(operation)) for _ in range(3)]
    await asyncio.sleep(0)
    gate.set()
    seen = await asyncio.gather(*early)
    late = await follow(operation)
    assert seen == [late, late, late]
    assert [event["stage"] for event in late] == ["one", "two", "two"]
    assert late[0]["progress"] == 0.25 and late[1]["warning"] is True
    assert late[-1]["done"] is True and late[-1]["result"] == {"answer": 42} and late[-1]["error"] is None
    assert operation.describe().state == "done" and operation.id == current_op_id.get()


async def test_old_events_are_dropped_and_a_marker_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_EVENTS", 10)

    async def work(operation: Operation) -> None:
        for number in range(100):
            operation.report("count", str(number))

    operation = Operations().start("test", "", work)
    await operation.ended.wait()
    events = await follow(operation)
    assert events[0]["message"] == "91 earlier events are not kept"
    assert [event["message"] for event in events[1:10]] == [str(number) for number in range(91, 100)]
    assert events[-1]["done"] and len(events) == 11


async def test_a_second_cancel_does_not_disturb_the_rollback() -> None:
    begun, may_finish, rolled_back = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def work(operation: Operation) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            begun.set()
            await may_finish.wait()
            rolled_back.set()

    operations = Operations()
    operation = operations.start("vm.create", "box", work)
    await asyncio.sleep(0)
    operation.cancel()
    await begun.wait()
    operation.cancel()
    may_finish.set()
    await operation.ended.wait()
    assert rolled_back.is_set()
    assert operation.describe().state == "cancelled" and operation.error is not None and operation.error.code == "cancelled"
    operation.cancel()
    assert operations.find(operation.id) is operation


async def test_cancelled_before_its_first_step() -> None:
    async def work(operation: Operation) -> None:
        raise AssertionError("never runs")

    operation = Operations().start("test", "", work)
    operation.cancel()
    assert [event["done"] for event in await follow(operation)] == [True]
    assert operation.state == "cancelled"


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (BadRequest("no", hint="do this", vm="box"), "bad_request", "no"),
        (ZeroDivisionError("secret"), "operation_failed", "internal error: ZeroDivisionError"),
        (ExceptionGroup("all", [BadRequest("root cause"), OSError("undo")]), "bad_request", "root cause"),
        (BaseExceptionGroup("all", [asyncio.CancelledError(), OSError("undo")]), "cancelled", "the operation was cancelled"),
    ],
)
async def test_failures(error: BaseException, code: str, message: str) -> None:
    async def work(operation: Operation) -> None:
        raise error

    operation = Operations().start("test", "", work)
    last = (await follow(operation))[-1]
    assert last["error"]["code"] == code and last["error"]["message"] == message and last["error"]["op_id"] == operation.id
    assert last["result"] is None and operation.state == ("cancelled" if code == "cancelled" else "failed")


async def test_a_result_that_cannot_be_encoded_is_a_failure() -> None:
    async def work(operation: Operation) -> object:
        operation.report("odd", "file \udcff name")
        return object()

    events = await follow(Operations().start("test", "", work))
    assert events[0]["message"] == "file \\udcff name"
    assert events[-1]["error"]["message"] == "internal error: TypeError"


async def test_ends_when_the_last_follower_leaves_but_only_if_asked_to() -> None:
    async def work(operation: Operation) -> None:
        await asyncio.Event().wait()

    operations = Operations()
    bound = operations.start("image.pull", "", work, ends_with_followers=True)
    with bound.followed():
        with bound.followed():
            pass
        await asyncio.sleep(0)
        assert bound.running
    await bound.ended.wait()
    assert bound.state == "cancelled"

    current_op_id.set(new_op_id())
    free = operations.start("vm.start", "", work)
    with free.followed():
        pass
    await asyncio.sleep(0.01)
    assert free.running
    await operations.close(grace=0.0, deadline=5.0)
    assert free.state == "cancelled"
    with pytest.raises(BangerError, match="stopping"):
        operations.start("test", "", work)


async def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(operation: Operation) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(module, "MAX_RUNNING", 2)
    operations = Operations()
    for _ in range(2):
        current_op_id.set(new_op_id())
        operations.start("test", "", work)
    with pytest.raises(BangerError, match="2 operations run already"):
        operations.start("test", "", work)
    await operations.close(grace=0.0, deadline=5.0)
    assert [one.state for one in operations.list()] == ["cancelled", "cancelled"]


async def test_an_unknown_id_says_that_restarts_forget() -> None:
    with pytest.raises(NotFound) as caught:
        Operations().find("op-000000000000")
    assert "restart" in caught.value.hint


async def test_what_the_daemon_does_by_itself_is_an_operation_too() -> None:
    operations = Operations()

    async def work(report: Report) -> None:
        report("graceful_shutdown")

    await operations.carry_out("vm.auto_stop", "box", work)
    (one,) = operations.list()
    assert (one.kind, one.target, one.stage, one.state, one.id) == ("vm.auto_stop", "box", "graceful_shutdown", "done", current_op_id.get())

    async def fails(report: Report) -> None:
        raise NotFound("it is gone")

    current_op_id.set(new_op_id())
    with pytest.raises(NotFound, match="it is gone"):
        await operations.carry_out("vm.auto_stop", "box", fails)
    assert operations.find(current_op_id.get()).state == "failed"


async def test_cancelling_who_waits_for_such_work_cancels_it() -> None:
    operations, rolled_back = Operations(), asyncio.Event()

    async def work(report: Report) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            rolled_back.set()

    waiter = asyncio.create_task(operations.carry_out("vm.auto_stop", "box", work))
    while not operations.list():
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    assert rolled_back.is_set()
    assert operations.list()[0].state == "cancelled"
