"""How often and how long something is tried that may pass."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, TypeVar

from ...model.errors import BangerError

log = logging.getLogger(__name__)

Result = TypeVar("Result")
_PROGRESS: Final = 1024 * 1024
"""Bytes that make an attempt count as a success: then the connection is bad, but the download gets there."""


class Transient(Exception):
    """It failed in a way that may pass."""

    def __init__(self, error: BangerError, *, after: float | None = None) -> None:
        super().__init__(error.message)
        self.error = error
        self.after = after
        """Seconds that the server asks to wait; None = it does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """Times are in seconds."""

    attempts: int = 5
    first_wait: float = 0.5
    """Before the second attempt; doubled each time, and up to half of it is taken off at random so that many clients do not come back at once."""
    longest_wait: float = 20.0
    """Of our own; a server may ask for more, up to ``longest_asked``."""
    longest_asked: float = 90.0
    connect: float = 10.0
    stall: float = 30.0
    """Without a byte."""
    document: float = 120.0
    """For the whole of an answer that is not a blob."""
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    tell: Callable[[str], None] = lambda message: None
    """Hears, in words for people, of every attempt that follows a failed one."""


async def retried(work: Callable[[], Awaitable[Result]], patience: Patience, *, progress: Callable[[], int] = lambda: 0) -> Result:
    """The result of ``work``, tried again when it raises Transient; ``progress`` counts bytes that stay from one attempt to the next.

    Raises the error inside the last Transient, and whatever else ``work`` raises.
    """
    failures = 0
    while True:
        before = progress()
        try:
            return await work()
        except Transient as failed:
            failures = 1 if progress() - before >= _PROGRESS else failures + 1
            if failures >= patience.attempts or (failed.after or 0.0) > patience.longest_asked:
                raise failed.error from failed
            wait = failed.after if failed.after is not None else _wait(patience, failures)
            log.info("trying again in %.1f s: %s", wait, failed.error.message)
            patience.tell(f"{failed.error.message}, trying again ({failures + 1} of {patience.attempts})")
        await patience.sleep(wait)


@asynccontextmanager
async def bounded(host: str, patience: Patience) -> AsyncIterator[None]:
    """Raises Transient when the block, which reads an answer that is not a blob, takes too long: a byte now and then is no stall."""
    try:
        async with asyncio.timeout(patience.document):
            yield
    except TimeoutError as error:
        raise Transient(BangerError(f"{host} takes longer than {patience.document:g} s for an answer")) from error


def _wait(patience: Patience, failures: int) -> float:
    wait = min(patience.first_wait * 2.0 ** (failures - 1), patience.longest_wait)
    return wait * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
