"""A command that may take so long and no longer."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

from ..client import Client
from ..model.errors import GuestTimeout
from .failures import report_error
from .session import Process, Streams, run_session

TIMED_OUT: Final = 124
"""As timeout(1) has it."""
GRACE_SECONDS: Final = 5.0
"""From the SIGTERM to when the command is left behind, with a SIGHUP."""


def run_limited(client: Client, ref: str, process: Process, streams: Streams, seconds: float) -> int:
    """``run_session`` for at most ``seconds``: then the command gets what a SIGTERM to us means for it. Returns its status, or TIMED_OUT."""
    expired = threading.Event()
    with _alarm(seconds, expired):
        try:
            status = run_session(client, ref, process, streams)
        except GuestTimeout:
            if not expired.is_set():
                raise
            status = TIMED_OUT
    if not expired.is_set():
        return status
    report_error(GuestTimeout(f"the command did not end within {seconds:g} s", op_id=client.last_op_id))
    return TIMED_OUT


@contextmanager
def _alarm(seconds: float, expired: threading.Event) -> Iterator[None]:
    """Sends this process SIGTERM after ``seconds``, and again GRACE_SECONDS later. Before and after the session, which has handlers of its own, it raises."""

    def ring() -> None:
        expired.set()
        os.kill(os.getpid(), signal.SIGTERM)

    def give_up(number: int, _frame: FrameType | None) -> None:
        if expired.is_set():
            raise GuestTimeout("the command did not begin in time")
        raise SystemExit(128 + number)

    timers = [threading.Timer(after, ring) for after in (seconds, seconds + GRACE_SECONDS)]
    before = signal.signal(signal.SIGTERM, give_up)
    for timer in timers:
        timer.daemon = True
        timer.start()
    try:
        yield
    finally:
        for timer in timers:
            timer.cancel()
        signal.signal(signal.SIGTERM, before)
