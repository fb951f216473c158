"""Groups that we make ourselves, as root, where no systemd does it: ``banger/INSTANCE/VM_ID``, in each hierarchy that is left to us."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Final

from ...model.errors import VmmError
from ...model.machine import GroupUsage, Limits
from ...model.records import ProcessIdentity
from ..process import kill_child
from ..threads import finished
from .controls import can_limit, write_limits
from .gate import Gate
from .hierarchies import Hierarchy, find_hierarchies, read_members, read_usage
from .protocol import Spawn, check_instance, is_vm_id, joined, noted

log = logging.getLogger(__name__)

FOLDER: Final = "banger"
_LEAVE_SECONDS: Final = 2.0
"""A process that has ended is in its group for a moment still."""


class RawGroups:
    """Groups by file operations. A machine's group in version 1 is one directory per hierarchy; one of them, ``pids``, says who belongs to it."""

    def __init__(self, instance: str, hierarchies: Sequence[Hierarchy] | None = None) -> None:
        self._instance = check_instance(instance)
        self._offered = tuple(find_hierarchies() if hierarchies is None else hierarchies)

    def enforced(self) -> frozenset[str]:
        """As trial groups have shown."""
        return frozenset(word for one in self._hierarchies for word in one.controllers)

    @cached_property
    def _hierarchies(self) -> tuple[Hierarchy, ...]:
        """Those in which groups can be made, with the controllers that work there."""
        return tuple(replace(one, controllers=works) for one in self._offered if one.free and (works := self._try(one)))

    def _try(self, hierarchy: Hierarchy) -> frozenset[str]:
        trial = self._home(hierarchy) / f"probe-{os.getpid()}"
        try:
            _make(hierarchy, trial)
            return frozenset(word for word in hierarchy.controllers if can_limit(trial, word, unified=hierarchy.unified))
        except OSError as error:
            log.info("no cgroups of ours here", extra={"hierarchy": str(hierarchy.mount), "error": str(error)})
            return frozenset()
        finally:
            _discard(trial)

    async def start(self, vm_id: str, limits: Limits, spawn: Spawn) -> ProcessIdentity:
        """In version 1 a thread enters the group and starts the process from there; in version 2, where threads cannot, a gate holds it until it is moved.

        Moving another process waits for the kernel's readers (cgroup_threadgroup_rwsem): some 7 ms, which a thread that moves itself does not pay.
        """
        gated = any(one.unified for one in self._hierarchies)
        started: list[ProcessIdentity] = []
        try:
            await asyncio.to_thread(self._make, vm_id, limits)
            with ThreadPoolExecutor(1) as pool:  # a thread of its own: nobody else's work shall happen inside
                work = self._start_gated if gated else self._start_inside
                return await finished(asyncio.get_running_loop().run_in_executor(pool, work, vm_id, noted(spawn, started)))
        except BaseException as error:
            for process in started:
                kill_child(process)
            await self.remove(vm_id)
            if isinstance(error, OSError):
                raise VmmError(f"the VMM cannot be started in a cgroup of its own: {error}") from error
            raise

    def _make(self, vm_id: str, limits: Limits) -> None:
        self._check(vm_id)
        for hierarchy in self._hierarchies:
            group = self._home(hierarchy) / vm_id
            _make(hierarchy, group)
            write_limits(group, limits, hierarchy)

    def _start_inside(self, vm_id: str, spawn: Spawn) -> ProcessIdentity:
        try:
            for hierarchy in self._hierarchies:
                (self._home(hierarchy) / vm_id / "tasks").write_text("0")
            return spawn((), ())
        finally:
            for hierarchy in self._hierarchies:
                (hierarchy.mount / "tasks").write_text("0")

    def _start_gated(self, vm_id: str, spawn: Spawn) -> ProcessIdentity:
        with Gate() as gate:
            process = spawn(gate.wrapper, gate.descriptors)
            for hierarchy in self._hierarchies:
                (self._home(hierarchy) / vm_id / "cgroup.procs").write_text(str(process.pid))
            gate.open()
        return process

    async def limit(self, vm_id: str, limits: Limits) -> None:
        """Write the limits anew."""
        self._check(vm_id)
        if vm_id not in self.machines():
            raise VmmError("the machine has no cgroup")
        try:
            for hierarchy in self._hierarchies:
                write_limits(self._home(hierarchy) / vm_id, limits, hierarchy)
        except OSError as error:
            raise VmmError(f"the limits of the VMM cannot be changed: {error}") from error

    async def remove(self, vm_id: str) -> None:
        """Remove the machine's directories, and the instance's when it was the last."""
        if not is_vm_id(vm_id):
            return
        for hierarchy in self._hierarchies:
            await _remove(self._home(hierarchy) / vm_id)

    def members(self, vm_id: str) -> frozenset[int]:
        """As the hierarchy says that is asked for such things. We ourselves are none, though a thread of ours goes in to start one."""
        hierarchy = self._named()
        found = read_members(self._home(hierarchy) / vm_id) if hierarchy is not None and is_vm_id(vm_id) else frozenset()
        return found - {os.getpid()}

    def machines(self) -> frozenset[str]:
        """From all hierarchies: an unfinished removal leaves some."""
        return frozenset(path.name for one in self._hierarchies for path in _folders(self._home(one)) if is_vm_id(path.name))

    def usage(self, vm_id: str) -> GroupUsage | None:
        """Put together from the hierarchies, each of which counts something else."""
        found = [read_usage(group, unified=one.unified) for one in self._hierarchies if (group := self._home(one) / vm_id).is_dir()]
        return joined(found)

    def _check(self, vm_id: str) -> None:
        if not is_vm_id(vm_id) or not self._hierarchies:
            raise VmmError(f"no cgroup can be made for {vm_id!r}")

    def _home(self, hierarchy: Hierarchy) -> Path:
        return hierarchy.mount / FOLDER / self._instance

    def _named(self) -> Hierarchy | None:
        return next((one for one in self._hierarchies if "pids" in one.controllers), self._hierarchies[0] if self._hierarchies else None)


def _folders(directory: Path) -> list[Path]:
    with contextlib.suppress(FileNotFoundError):
        return [path for path in directory.iterdir() if path.is_dir()]
    return []


def _make(hierarchy: Hierarchy, group: Path) -> None:
    """The group and those above it, with the controllers handed down."""
    while True:
        try:
            for path in (group.parent.parent, group.parent, group):
                if hierarchy.unified:
                    _hand_down(hierarchy, path.parent)
                path.mkdir(exist_ok=True)
            return
        except FileNotFoundError:  # somebody removed the instance's directory, which was empty
            if not hierarchy.mount.is_dir():
                raise


def _hand_down(hierarchy: Hierarchy, parent: Path) -> None:
    """One by one: a controller that is refused shall not keep the others back."""
    for word in hierarchy.controllers:
        with contextlib.suppress(OSError):
            (parent / "cgroup.subtree_control").write_text(f"+{word}")


async def _remove(group: Path) -> None:
    until = time.monotonic() + _LEAVE_SECONDS
    while not _discard(group):
        if time.monotonic() > until:
            raise VmmError(f"the cgroup {group} cannot be removed: processes {sorted(read_members(group))} are in it")
        await asyncio.sleep(0.01)


def _discard(group: Path) -> bool:
    """Remove a group and those above it that are empty then; False while it is used."""
    try:
        group.rmdir()
    except FileNotFoundError:
        pass
    except OSError as error:
        if error.errno == errno.EBUSY:
            return False
        raise
    with contextlib.suppress(OSError):
        for above in (group.parent, group.parent.parent):
            if not _folders(above):
                above.rmdir()
    return True
