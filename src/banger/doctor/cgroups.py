"""Cgroups: whether machines can be bounded, by whoever starts them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ..host.cgroups.hierarchies import Hierarchy, find_hierarchies
from .ground import Ground
from .outcome import Command, Fix, NewFile, Result, commands, passed, skipped, warned

_ALL: Final = frozenset({"cpu", "memory", "pids", "io"})
_UNLIMITED: Final = "--cpu-quota and the bound on a VMM's memory have no effect"


def groups(ground: Ground) -> Result:
    """Which versions there are and what they can bound."""
    found = find_hierarchies(ground.at("/proc/self"))
    if not found:
        return warned(f"no cgroups: {_UNLIMITED}", "mount them: sudo mount -t cgroup2 none /sys/fs/cgroup")
    controllers = frozenset[str]().union(*(one.controllers for one in found))
    detail = f"{version(found)}: {', '.join(sorted(controllers))}"
    if missing := sorted(_ALL - controllers):
        return warned(f"{detail}; not {', '.join(missing)}", f"boot the host with {' '.join(f'cgroup_enable={word}' for word in missing)}")
    if not any(one.unified for one in found):
        return passed(f"{detail} (version 2 starts machines quicker: systemd.unified_cgroup_hierarchy=1 at boot)")
    return passed(detail)


def version(found: tuple[Hierarchy, ...]) -> str:
    """``2``, ``1``, or a hybrid of both, in words."""
    kinds = {one.unified for one in found}
    return "hybrid of versions 1 and 2" if len(kinds) == 2 else "version 2" if True in kinds else "version 1"


def limits(ground: Ground) -> Result:
    """Whether whoever starts machines of this instance may bound them."""
    if ground.system:
        return passed("each machine in a group of its own, made by the helper")
    if ground.uid == 0:
        return passed("each machine in a group of its own, made by root")
    offered = _delegated(ground)
    if offered is None:
        if not ground.at("/run/systemd/system").exists():
            return skipped(f"no systemd to ask for groups, so only root's machines are bounded: {_UNLIMITED}")
        return warned(f"{ground.user} has no systemd session to ask for groups: {_UNLIMITED}", commands(f"loginctl enable-linger {ground.user}"))
    if missing := sorted({"cpu", "memory", "pids"} - offered):
        return warned(f"{ground.user}'s session is not given {', '.join(missing)}: such limits have no effect", _delegate())
    return passed(f"{ground.user}'s session may bound {', '.join(sorted(offered & _ALL))}")


def _delegated(ground: Ground) -> frozenset[str] | None:
    """Controllers of the user's own part of version 2; None when there is none."""
    manager = f"/sys/fs/cgroup/user.slice/user-{ground.uid}.slice/user@{ground.uid}.service"
    if not ground.at(Path(manager, "cgroup.controllers")).exists() or not ground.at(f"/run/user/{ground.uid}/systemd").exists():
        return None
    return frozenset(ground.read(f"{manager}/cgroup.controllers").split())


def _delegate() -> Fix:
    """systemd.resource-control(5), Delegate=."""
    place = Path("/etc/systemd/system/user@.service.d")
    return Fix(
        (
            Command(("mkdir", "-p", str(place))),
            NewFile(place / "banger.conf", "[Service]\nDelegate=cpu cpuset io memory pids"),
            *commands("systemctl daemon-reload").steps,
        )
    )


def processes(ground: Ground) -> Result:
    """How many processes this user may have: each machine takes about five."""
    allowed = os.sysconf("SC_CHILD_MAX")
    if allowed < 0 or allowed >= 512:
        return passed("no limit" if allowed < 0 else f"{ground.user} may have {allowed}")
    return warned(f"{ground.user} may have {allowed}: enough for about {allowed // 8} machines", "raise nproc in /etc/security/limits.d")


CHECKS: Final[tuple[tuple[str, str, Callable[[Ground], Result]], ...]] = (
    ("virtualisation.cgroups", "cgroups", groups),
    ("virtualisation.limits", "limits", limits),
    ("host.processes", "processes", processes),
)
