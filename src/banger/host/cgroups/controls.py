"""Limits as the files of a group say them, in version 2 and version 1 (Documentation/admin-guide of Linux: cgroup-v2.rst, cgroup-v1/)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from ...model.machine import Limits
from .hierarchies import Hierarchy

PERIOD_US: Final = 100_000
_FILES: Final = {
    True: {"cpu": "cpu.max", "memory": "memory.max", "pids": "pids.max", "io": "io.weight"},
    False: {"cpu": "cpu.cfs_quota_us", "memory": "memory.limit_in_bytes", "pids": "pids.max", "io": "blkio.weight"},
}


def can_limit(group: Path, controller: str, *, unified: bool) -> bool:
    """Whether the kernel lets a group be limited in this."""
    return (group / _FILES[unified][controller]).exists()


def write_limits(group: Path, limits: Limits, hierarchy: Hierarchy) -> None:
    """Write those of the hierarchy's controllers. Raises OSError."""
    writers = _UNIFIED if hierarchy.unified else _VERSION_1
    for word in sorted(hierarchy.controllers):
        writers[word](group, limits)


def _quota(limits: Limits) -> str:
    return str(round(limits.cpu_quota * PERIOD_US)) if limits.cpu_quota else ""


def _write(file: Path, value: str) -> None:
    file.write_text(value)


def _write_if_there(file: Path, value: str) -> None:
    if file.exists():
        file.write_text(value)


def _memory(group: Path, limits: Limits) -> None:
    _write(group / "memory.max", str(limits.memory_max_bytes or "max"))
    _write_if_there(group / "memory.swap.max", "0" if limits.memory_max_bytes else "max")
    _write_if_there(group / "memory.oom.group", "1")


def _memory_1(group: Path, limits: Limits) -> None:
    """The limit with swap can never be the smaller one, so it goes up first."""
    both = group / "memory.memsw.limit_in_bytes"
    _write_if_there(both, "-1")
    _write(group / "memory.limit_in_bytes", str(limits.memory_max_bytes or -1))
    _write_if_there(both, str(limits.memory_max_bytes or -1))


_Writers = dict[str, Callable[[Path, Limits], None]]
_UNIFIED: Final[_Writers] = {
    "cpu": lambda group, limits: _write(group / "cpu.max", f"{_quota(limits) or 'max'} {PERIOD_US}"),
    "memory": _memory,
    "pids": lambda group, limits: _write(group / "pids.max", str(limits.pids_max or "max")),
    "io": lambda group, limits: _write(group / "io.weight", f"default {limits.io_weight or 100}"),
}
_VERSION_1: Final[_Writers] = {
    "cpu": lambda group, limits: _write(group / "cpu.cfs_quota_us", _quota(limits) or "-1"),
    "memory": _memory_1,
    "pids": lambda group, limits: _write(group / "pids.max", str(limits.pids_max or "max")),
    "io": lambda group, limits: _write(group / "blkio.weight", str(min(max((limits.io_weight or 100) * 5, 10), 1000))),
}
"""Weights of version 1 are 10 to 1000, 500 is everybody's (block/blk-cgroup of Linux up to 5)."""
