"""Work in a thread: its result, its error, and that a cancelled caller waits for it."""

from __future__ import annotations

import asyncio
import threading

import pytest

from banger.host.threads import run_to_end


def fail(message: str) -> None:
    raise OSError(message)


async def test_results_and_errors_come_back() -> None:
    assert await run_to_end(sorted, [2, 1], reverse=False) == [1, 2]
    with pytest.raises(OSError, match="no"):
        await run_to_end(fail, "no")


@pytest.mark.parametrize("times", [1, 3])
async def test_a_cancelled_caller_waits_for_the_end(times: int) -> None:
    begun, may_end, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        may_end.wait(10)
        ended.set()

    task = asyncio.create_task(run_to_end(work))
    await asyncio.to_thread(begun.wait, 10)
    for _ in range(times):
        task.cancel()
        await asyncio.sleep(0.01)
    assert not task.done()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()
