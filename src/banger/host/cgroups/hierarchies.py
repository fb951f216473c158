"""The hierarchies of cgroups that this process sees: one of version 2, or several of version 1 (cgroups(7))."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ...model.machine import GroupUsage
from .protocol import read_number

_CONTROLLERS: Final = {"cpu": "cpu", "memory": "memory", "pids": "pids", "blkio": "io", "io": "io"}
"""The kernel's word for a controller -> ours."""
_UNLIMITED: Final = 1 << 60
"""Version 1 says "no limit" by a number about as large as there is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hierarchy:
    """A mounted tree of groups."""

    mount: Path
    controllers: frozenset[str]
    """Of ``cpu``, ``memory``, ``pids``, ``io``."""
    unified: bool
    """Version 2."""
    free: bool
    """Nobody has put this process into a group. Where somebody has, a supervisor or the runtime of a container counts and bounds by it."""

    def offered(self, group: Path) -> frozenset[str]:
        """Controllers that groups below this one can have."""
        return _ours(_read(group / "cgroup.controllers").split()) if self.unified else self.controllers


def find_hierarchies(proc: Path = Path("/proc/self")) -> tuple[Hierarchy, ...]:
    """Those with a controller that we use. A version 2 without any, mounted beside version 1 (a "hybrid"), is left out."""
    own = _own_groups((proc / "cgroup").read_text())
    found = []
    for line in (proc / "mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        mount, (kind, _, options) = Path(before.split()[4]), after.split(maxsplit=2)
        words = options.split(",")
        if kind == "cgroup2":
            controllers = _ours(_read(mount / "cgroup.controllers").split())
            found.append(Hierarchy(mount=mount, controllers=controllers, unified=True, free=own.get("") == "/"))
        elif kind == "cgroup":
            free = all(own.get(word, "/") == "/" for word in words)
            found.append(Hierarchy(mount=mount, controllers=_ours(words), unified=False, free=free))
    return tuple(one for one in found if one.controllers)


def _own_groups(text: str) -> dict[str, str]:
    """Path of this process's group by controller; version 2 is that of ``""``."""
    groups: dict[str, str] = {}
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        groups |= dict.fromkeys(controllers.split(","), path)
    return groups


def _ours(words: list[str]) -> frozenset[str]:
    return frozenset(_CONTROLLERS[word] for word in words if word in _CONTROLLERS)


def read_usage(group: Path, *, unified: bool) -> GroupUsage:
    """What the files of a group say, of the controllers that its hierarchy has."""
    cpu = _table(group / "cpu.stat")
    periods, throttled = read_number(cpu, "nr_periods"), read_number(cpu, "nr_throttled")
    waited, unit = (read_number(cpu, "throttled_usec"), 1e6) if unified else (read_number(cpu, "throttled_time"), 1e9)
    limit = _number(group / ("memory.max" if unified else "memory.limit_in_bytes"))
    return GroupUsage(
        cpu_periods=periods,
        cpu_throttled_periods=throttled,
        cpu_throttled_seconds=None if waited is None else round(waited / unit, 3),
        memory_bytes=_number(group / ("memory.current" if unified else "memory.usage_in_bytes")),
        memory_max_bytes=limit if limit is not None and limit < _UNLIMITED else None,
        oom_kills=read_number(_table(group / ("memory.events" if unified else "memory.oom_control")), "oom_kill"),
    )


def read_members(group: Path) -> frozenset[int]:
    """Pids of the processes in a group; none when there is no such group."""
    return frozenset(int(word) for word in _read(group / "cgroup.procs").split())


def _table(file: Path) -> dict[str, str]:
    return dict(words for line in _read(file).splitlines() if len(words := line.split()) == 2)


def _number(file: Path) -> int | None:
    text = _read(file).strip()
    return int(text) if text.isdigit() else None


def _read(file: Path) -> str:
    """The file's text; "" when it is not there, as is a group that has just been removed (ENODEV while it is being)."""
    try:
        return file.read_text()
    except OSError:
        return ""
