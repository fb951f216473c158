"""A process that waits, before it becomes the program it was started for, until it has been put where it belongs.

It begins as util-linux's flock(1), which waits for a lock that we hold and then executes the rest of its arguments. When we die before we let it go, it
ends too: it has inherited the locked description itself, so the lock outlives us, and it waits no longer than a minute.
"""

from __future__ import annotations

import fcntl
import os
from types import TracebackType
from typing import Final, Self

from ..run import find_tool

_PATIENCE: Final = "60"


class Gate:
    """Closed until ``open``. A context manager: on the way out the lock is dropped with its descriptor, so end the process before when it must not run."""

    def __init__(self) -> None:
        self._fd = os.memfd_create("banger-gate", os.MFD_CLOEXEC)
        fcntl.flock(self._fd, fcntl.LOCK_EX)

    @property
    def wrapper(self) -> tuple[str, ...]:
        """The words to put before the program. Raises MissingTool."""
        return str(find_tool("flock")), "--no-fork", "--exclusive", "--timeout", _PATIENCE, f"/proc/self/fd/{self._fd}"

    @property
    def descriptors(self) -> tuple[int, ...]:
        """What the process must inherit."""
        return (self._fd,)

    def open(self) -> None:
        """Let the process go on."""
        fcntl.flock(self._fd, fcntl.LOCK_UN)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        os.close(self._fd)
