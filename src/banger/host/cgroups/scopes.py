"""Groups that systemd makes: a transient scope per machine, ``banger-VM_ID.scope`` in the slice of its instance (org.freedesktop.systemd1(5)).

A scope is no service: nobody stops it with the daemon, and it goes by itself when its last process has ended. A user's own systemd makes them as well, with
the controllers that were delegated to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from pathlib import Path
from typing import Final

from ...model.errors import CommandFailed, VmmError
from ...model.machine import GroupUsage, Limits
from ...model.records import ProcessIdentity
from ..process import is_alive, kill_child
from ..run import run
from ..threads import run_to_end
from .gate import Gate
from .hierarchies import find_hierarchies, read_members, read_usage
from .protocol import Spawn, check_instance, is_vm_id, joined, noted

_MANAGER: Final = ("org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager")
_DEADLINE: Final = 25.0
_INFINITY: Final = str((1 << 64) - 1)
_POLL_SECONDS: Final = 0.001


class SystemdScopes:
    """Groups by calls of the manager's D-Bus interface, through ``busctl``."""

    def __init__(self, instance: str, *, user: bool = False) -> None:
        """``user``: of the user's own systemd, in place of the system's."""
        self._instance = check_instance(instance)
        self._user = user

    def enforced(self) -> frozenset[str]:
        """What the manager may hand down."""
        top = self._slice.parent.parent.relative_to("/")
        return frozenset(word for one in find_hierarchies() for word in one.offered(one.mount / top))

    async def start(self, vm_id: str, limits: Limits, spawn: Spawn) -> ProcessIdentity:
        """Behind a gate, until the scope that is made for the process has it."""
        unit = self._unit(vm_id)
        started: list[ProcessIdentity] = []
        try:
            with Gate() as gate:
                process = await run_to_end(noted(spawn, started), gate.wrapper, gate.descriptors)
                await self._enclose(unit, vm_id, process, limits)
                gate.open()
            return process
        except BaseException:
            for process in started:
                kill_child(process)
            raise

    async def _enclose(self, unit: str, vm_id: str, process: ProcessIdentity, limits: Limits) -> None:
        properties = [
            ("PIDs", "au", "1", str(process.pid)),
            ("Slice", "s", self._slice.name),
            ("CollectMode", "s", "inactive-or-failed"),
            ("Description", "s", f"banger machine {vm_id}"),
            *_properties(limits, self.enforced()),
        ]
        await self._call("StartTransientUnit", "ssa(sv)a(sa(sv))", unit, "fail", str(len(properties)), *sum(properties, ()), "0")
        until = time.monotonic() + _DEADLINE
        while process.pid not in self.members(vm_id):
            if not is_alive(process) or time.monotonic() > until:
                raise VmmError(f"systemd has not put the VMM into {unit}", hint="journalctl -b -u init.scope")
            await asyncio.sleep(_POLL_SECONDS)

    async def limit(self, vm_id: str, limits: Limits) -> None:
        """Change properties of the scope, until it ends."""
        properties = _properties(limits, self.enforced())
        await self._call("SetUnitProperties", "sba(sv)", self._unit(vm_id), "true", str(len(properties)), *sum(properties, ()))

    async def remove(self, vm_id: str) -> None:
        """Wait for systemd to notice that the scope is empty; one that it does not notice is stopped."""
        until = time.monotonic() + 2.0
        while any(path.is_dir() for path in self._places(vm_id)):
            if time.monotonic() > until:
                if members := self.members(vm_id):
                    raise VmmError(f"{self._unit(vm_id)} cannot be removed: processes {sorted(members)} are in it")
                with contextlib.suppress(CommandFailed):  # it went meanwhile
                    await self._call("StopUnit", "ss", self._unit(vm_id), "replace")
                return
            await asyncio.sleep(0.005)

    def members(self, vm_id: str) -> frozenset[int]:
        """As any hierarchy shows them; systemd puts a process into the same group of each."""
        return frozenset(pid for path in self._places(vm_id) for pid in read_members(path))

    def machines(self) -> frozenset[str]:
        """By the names of the scopes."""
        names = (path.name for one in find_hierarchies() for path in (one.mount / self._slice.relative_to("/")).glob("banger-*.scope"))
        ids = (name.removeprefix("banger-").removesuffix(".scope") for name in names)
        return frozenset(word for word in ids if is_vm_id(word))

    def usage(self, vm_id: str) -> GroupUsage | None:
        """Put together from the hierarchies."""
        return joined([read_usage(path, unified=one.unified) for one in find_hierarchies() if (path := self._place(one.mount, vm_id)).is_dir()])

    async def _call(self, method: str, *words: str) -> None:
        bus = ["--user"] if self._user else ["--system"]
        await run(["busctl", *bus, "--quiet", "call", *_MANAGER, method, *words], deadline=_DEADLINE)

    def _unit(self, vm_id: str) -> str:
        if not is_vm_id(vm_id):
            raise VmmError(f"no scope can be made for {vm_id!r}")
        return f"banger-{vm_id}.scope"

    @property
    def _slice(self) -> Path:
        """Where systemd.slice(5) puts ``banger-INSTANCE.slice``."""
        uid = os.getuid()
        root = Path("/user.slice", f"user-{uid}.slice", f"user@{uid}.service") if self._user else Path("/")
        return root / "banger.slice" / f"banger-{self._instance}.slice"

    def _place(self, mount: Path, vm_id: str) -> Path:
        return mount / self._slice.relative_to("/") / self._unit(vm_id)

    def _places(self, vm_id: str) -> list[Path]:
        return [self._place(one.mount, vm_id) for one in find_hierarchies()]


def _properties(limits: Limits, enforced: frozenset[str]) -> list[tuple[str, ...]]:
    """As busctl wants them: name, type, value (systemd.resource-control(5))."""
    every = {
        "cpu": [("CPUQuotaPerSecUSec", str(round(limits.cpu_quota * 1_000_000)) if limits.cpu_quota else _INFINITY)],
        "memory": [("MemoryMax", str(limits.memory_max_bytes or _INFINITY)), ("MemorySwapMax", "0" if limits.memory_max_bytes else _INFINITY)],
        "pids": [("TasksMax", str(limits.pids_max or _INFINITY))],
        "io": [("IOWeight", str(limits.io_weight or 100))],
    }
    return [(name, "t", value) for word in sorted(enforced) for name, value in every[word]]
