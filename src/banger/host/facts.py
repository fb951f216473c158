"""Facts about this host."""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path


@cache
def boot_id() -> str:
    """Random id of the present boot of the host (random(4))."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def cpu_count() -> int:
    """CPUs this process may use."""
    return len(os.sched_getaffinity(0))


def memory_bytes() -> int:
    """Physical memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@cache
def tsc_khz() -> int | None:
    """Frequency of the time stamp counter in kHz, or None when it cannot be known: the kernel log's own figure, else the CPU's nominal MHz."""
    try:
        fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return _khz_of_cpuinfo()
    try:
        while True:
            try:
                line = os.read(fd, 8192)
            except BrokenPipeError:  # a record was overwritten under us (Documentation/ABI/testing/dev-kmsg)
                continue
            except OSError:
                return _khz_of_cpuinfo()
            if match := re.search(rb"tsc: Detected ([0-9]+)\.([0-9]{3}) MHz", line):
                return int(match[1] + match[2])
    finally:
        os.close(fd)


def _khz_of_cpuinfo() -> int | None:
    match = re.search(r"^cpu MHz\s*:\s*([0-9]+)\.([0-9]{3})", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return int(match[1] + match[2]) if match else None
