"""What a process that is not ours to wait for uses: CPU time and memory."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from ..model.records import ProcessIdentity
from .process import is_alive


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryUse:
    """Bytes of a process that are in memory."""

    rss: int
    pss: int | None
    """Each shared page counted by its share; None where the kernel does not tell us (it wants the right to trace the process)."""


def cpu_seconds(process: ProcessIdentity) -> float | None:
    """CPU time of all threads of this very process so far, to the nanosecond; None when it is gone.

    The number of a process's CPU clock is made as in the kernel's include/linux/posix-timers.h (MAKE_PROCESS_CPUCLOCK with CPUCLOCK_SCHED).
    """
    try:
        seconds = time.clock_gettime((~process.pid << 3) | 2)
    except OSError:
        return None
    return seconds if is_alive(process) else None


def memory_use(process: ProcessIdentity) -> MemoryUse | None:
    """Memory of this very process; None when it is gone. Walks its page tables: some milliseconds for a large machine, so call it in a thread."""
    folder = Path(f"/proc/{process.pid}")
    try:
        resident = int((folder / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")  # proc(5): statm, field 2
    except OSError:
        return None
    exact = _rollup(folder / "smaps_rollup")
    if not is_alive(process):
        return None
    return MemoryUse(rss=exact.get("Rss", resident), pss=exact.get("Pss"))


def _rollup(path: Path) -> dict[str, int]:
    try:
        lines = path.read_text().splitlines()[1:]
    except OSError:
        return {}
    words = (line.split() for line in lines)
    return {word[0].removesuffix(":"): int(word[1]) * 1024 for word in words if len(word) == 3}
