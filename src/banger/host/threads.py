"""Blocking work in a thread that a cancelled caller must not leave behind."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
Result = TypeVar("Result")


async def run_to_end(work: Callable[P, Result], *args: P.args, **kwargs: P.kwargs) -> Result:
    """``work(...)`` in a thread. A thread cannot be stopped, so a cancellation waits for its end: what is undone next must be there already."""
    return await finished(asyncio.ensure_future(asyncio.to_thread(work, *args, **kwargs)))


async def finished(running: asyncio.Future[Result]) -> Result:
    """The result of work in a thread that has been started already; a cancellation waits as it does in ``run_to_end``."""
    try:
        return await asyncio.shield(running)
    except BaseException:
        while not running.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait((running,))
        if not running.cancelled():
            running.exception()  # asyncio complains about one that nobody has looked at
        raise
