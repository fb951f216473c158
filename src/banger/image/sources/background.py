"""Blocking work of minutes in a thread: it reports how far it is, and a cancelled caller is waited for no longer than one step takes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from ...host.threads import run_to_end
from ...model.progress import Report

Result = TypeVar("Result")
Progress = Callable[[int, int], None]
"""Called by the work with bytes done and bytes in all."""


class _LeftError(Exception):
    """The caller has gone."""


async def in_background(work: Callable[[Progress], Result], report: Report, stage: str, message: str) -> Result:
    """``work(progress)`` in a thread; raises what it raises. When this is cancelled, the work ends at its next call of ``progress``."""
    left, loop, last = threading.Event(), asyncio.get_running_loop(), -1

    def progress(done: int, whole: int) -> None:
        nonlocal last
        if left.is_set():
            raise _LeftError
        percent = done * 100 // max(whole, 1)
        if percent != last:
            last = percent
            loop.call_soon_threadsafe(partial(report, stage, message, progress=percent / 100))

    running = asyncio.ensure_future(run_to_end(work, progress))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        left.set()
        await asyncio.wait((running,))
        running.exception()
        raise
