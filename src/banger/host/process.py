"""Processes that are not our asyncio children: identify, watch, signal and wait by pidfd, safe against reused pids."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..model.records import ProcessIdentity

if TYPE_CHECKING:
    import asyncio  # at run time only where it is used, as in run.py


def start_time_of(pid: int) -> int | None:
    """Clock ticks since boot at which ``pid`` started (proc(5), stat field 22); None when there is no such process or it is a zombie."""
    state, start = _stat(pid)
    return None if state in (b"Z", b"X") else start


def _stat(pid: int) -> tuple[bytes, int | None]:
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return b"X", None
    fields = text[text.rindex(b")") + 2 :].split()
    return fields[0], int(fields[19])


def identify(pid: int) -> ProcessIdentity:
    """Identity of a process that is our own child (so its pid cannot be reused yet). A child that has already ended gets start time 0."""
    return ProcessIdentity(pid=pid, start_time=start_time_of(pid) or 0)


def owner_of(pid: int) -> int | None:
    """Real uid of a process, also of one that hides behind a root-owned /proc/PID (prctl PR_SET_DUMPABLE); None when there is no such process."""
    try:
        status = Path(f"/proc/{pid}/status").read_bytes()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith(b"Uid:")), None)


def is_alive(process: ProcessIdentity) -> bool:
    """Whether this very process still runs."""
    return start_time_of(process.pid) == process.start_time


def command_lines() -> Iterator[tuple[int, list[bytes]]]:
    """Pid and arguments of every process that we may read."""
    for name in os.listdir("/proc"):  # noqa: PTH208 - names are wanted
        if name.isdigit():
            with contextlib.suppress(OSError):
                raw = Path("/proc", name, "cmdline").read_bytes()
                if raw:
                    yield int(name), raw.rstrip(b"\0").split(b"\0")


def holds_below(pid: int, directory: Path) -> bool:
    """Whether the process has a file below ``directory`` open, also one that was removed since; False when we may not see what it has open."""
    prefix = f"{os.path.realpath(directory)}/"
    with contextlib.suppress(OSError):
        for fd in os.listdir(f"/proc/{pid}/fd"):  # noqa: PTH208 - names are wanted
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{pid}/fd/{fd}").startswith(prefix):  # noqa: PTH115 - a magic link
                    return True
    return False


def open_pidfd(process: ProcessIdentity) -> int | None:
    """A pidfd for this very process, or None when it is gone. The caller closes it."""
    fd = _open_even_zombie(process)
    if fd is not None and not is_alive(process):
        os.close(fd)
        return None
    return fd


def _open_even_zombie(process: ProcessIdentity) -> int | None:
    try:
        fd = os.pidfd_open(process.pid)
    except OSError:
        return None
    if _stat(process.pid)[1] != process.start_time:
        os.close(fd)
        return None
    return fd


def send_signal(process: ProcessIdentity, number: signal.Signals) -> bool:
    """Signal this very process; False when it is gone. Raises PermissionError when it is not ours."""
    fd = open_pidfd(process)
    if fd is None:
        return False
    try:
        signal.pidfd_send_signal(fd, number)
        return True
    except ProcessLookupError:
        return False
    finally:
        os.close(fd)


def kill_child(process: ProcessIdentity) -> None:
    """Kill a process that has just been started by this one, and reap it; it has not run for long enough to have children."""
    send_signal(process, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(process.pid, 0)


async def wait_exit(process: ProcessIdentity) -> int | None:
    """Return when the process has ended (at once if it has); reaps it when it is our child.

    The result is its exit status, or the negative number of the signal that ended it; None when it was not our child, or somebody else reaped it.

    Ended means all its threads: a killed process can be a zombie by its first thread while others still hold its files and their locks.
    """
    import asyncio

    fd = _open_even_zombie(process)
    try:
        if fd is not None:
            loop = asyncio.get_running_loop()
            ended: asyncio.Future[None] = loop.create_future()
            loop.add_reader(fd, _resolve, ended)
            try:
                await ended
            finally:
                loop.remove_reader(fd)
        return _reap(process.pid)
    finally:
        if fd is not None:
            os.close(fd)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _reap(pid: int) -> int | None:
    with contextlib.suppress(ChildProcessError):
        if start_time_of(pid) is None:
            reaped, status = os.waitpid(pid, os.WNOHANG)
            return os.waitstatus_to_exitcode(status) if reaped else None
    return None


async def end(process: ProcessIdentity, *, grace: float = 0.0) -> bool:
    """End the process: SIGTERM and up to ``grace`` seconds, then SIGKILL; returns when it is gone. False when it had gone before."""
    import asyncio

    if not is_alive(process):
        await wait_exit(process)
        return False
    if grace > 0 and send_signal(process, signal.SIGTERM):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await wait_exit(process)
                return True
    send_signal(process, signal.SIGKILL)
    await wait_exit(process)
    return True
