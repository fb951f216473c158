"""What belongs to this instance and no machine needs any more: processes, taps, sockets, half-made files and directories that a crash left.

Only what is provably ours counts: a process by the files below our machines' directory that it has open, a file by its place, its owner and its name.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import stat
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final, Literal

from ..host import process
from ..host.files import STAGING_SUFFIX, remove_tree
from ..host.mounts import mounts_in, unmount
from ..model.errors import BangerError
from ..model.progress import Report
from ..model.records import ProcessIdentity
from ..net.protocol import ListsHelpers, ListsTaps
from ..vmm.protocol import BoundsMachines, ListsMachines, Machine
from .bounds import release_bounds
from .cleanup import end_unknown
from .context import Services

log = logging.getLogger(__name__)

Kind = Literal["machine", "scope", "network", "tap", "socket", "staging", "mount", "directory"]

_ID: Final = re.compile(r"[0-9a-f]{32}")
_HELPER_GRACE: Final = 2.0
_ABANDONED_SECONDS: Final = 3600.0
"""Age at which something half-made that no lock protects is taken for abandoned; writing it takes seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """One thing that is left; ``removed`` and ``error`` say what came of removing it."""

    kind: Kind
    what: str
    """A path, a process and its pid, or the name of a tap."""
    vm_id: str = ""
    removed: bool = False
    error: str = ""


@dataclass(frozen=True, slots=True)
class _Found:
    leftover: Leftover
    remove: Callable[[], Awaitable[object]]


async def collect_garbage(services: Services, *, dry_run: bool, report: Report) -> tuple[Leftover, ...]:
    """Find all leftovers and, unless ``dry_run``, remove them. One that resists is told in its ``error`` and does not keep the others."""
    report("find_leftovers")
    found = await _find(services)
    if dry_run:
        return tuple(one.leftover for one in found)
    report("remove_leftovers")
    return tuple([await _remove(one) for one in found])


async def log_leftovers(services: Services) -> None:
    """Say in the log what is left, for whoever looks for the reason of a full disk."""
    for one in await _find(services):
        log.warning("leftover; banger gc removes it", extra={"what": one.leftover.what, "kind": one.leftover.kind, "vm_id": one.leftover.vm_id})


async def _remove(found: _Found) -> Leftover:
    try:
        await found.remove()
    except (BangerError, OSError) as error:
        log.warning("a leftover could not be removed", extra={"what": found.leftover.what, "error": str(error)})
        return replace(found.leftover, error=str(error))
    log.info("leftover removed", extra={"what": found.leftover.what, "vm_id": found.leftover.vm_id})
    return replace(found.leftover, removed=True)


async def _find(services: Services) -> list[_Found]:
    # Rows are read before and after looking at the host: what was deleted or made meanwhile is no leftover.
    rows = _rows(services)
    machines = await _machines(services, rows)
    helpers = await _helpers(services)
    bounds = await _bounds(services)
    rows |= _rows(services)
    images = await services.images.find_leftovers()
    return [
        *(_machine(services, vm_id, machine) for vm_id, machine in machines.items() if vm_id not in rows),
        *(_scope(services, vm_id) for vm_id in sorted(bounds - machines.keys()) if vm_id not in rows or _idle(services, vm_id)),
        *(_helper(services, vm_id, one) for vm_id, some in helpers.items() if vm_id not in rows or _idle(services, vm_id) for one in some),
        *await _taps(services),
        *_in_machine_directories(services, rows),
        *(_path("staging", path, "", partial(services.images.discard_leftover, path)) for path in images),
        *_half_made(services),
    ]


def _rows(services: Services) -> set[str]:
    return {record.id for record in services.vms.list()}


async def _machines(services: Services, rows: set[str]) -> Mapping[str, Machine]:
    return await services.vmm.list_machines(services.layout.vms, rows) if isinstance(services.vmm, ListsMachines) else {}


async def _bounds(services: Services) -> frozenset[str]:
    return await asyncio.to_thread(services.vmm.bounds) if isinstance(services.vmm, BoundsMachines) else frozenset()


async def _helpers(services: Services) -> Mapping[str, tuple[ProcessIdentity, ...]]:
    return await services.network.list_helpers(services.layout.vms) if isinstance(services.network, ListsHelpers) else {}


async def _taps(services: Services) -> list[_Found]:
    network = services.network
    if not isinstance(network, ListsTaps):
        return []
    try:
        return [_Found(Leftover(kind="tap", what=name), partial(network.remove_tap, name)) for name in await network.stray_taps()]
    except BangerError as error:
        log.warning("taps could not be looked for", extra={"error": error.message})
        return []


def _idle(services: Services, vm_id: str) -> bool:
    """Neither running nor being changed."""
    return vm_id not in services.live and not services.locks.held(vm_id)


def _machine(services: Services, vm_id: str, machine: Machine) -> _Found:
    """A process, and its bounds with it."""

    async def end() -> None:
        await end_unknown(machine)
        await release_bounds(services, vm_id)

    return _Found(Leftover(kind="machine", what=f"process {machine.process.pid}", vm_id=vm_id), end)


def _scope(services: Services, vm_id: str) -> _Found:
    """Bounds without a process."""
    remove = partial(release_bounds, services, vm_id)
    return _Found(Leftover(kind="scope", what=f"cgroup of machine {vm_id}", vm_id=vm_id), partial(_unless_used, services, vm_id, remove))


def _helper(services: Services, vm_id: str, helper: ProcessIdentity) -> _Found:
    end = partial(process.end, helper, grace=_HELPER_GRACE)
    return _Found(Leftover(kind="network", what=f"process {helper.pid}", vm_id=vm_id), partial(_unless_used, services, vm_id, end))


def _in_machine_directories(services: Services, rows: set[str]) -> Iterator[_Found]:
    for path in _ours(services.layout.vms, "*"):
        vm_id = path.name
        if not _ID.fullmatch(vm_id) or not path.is_dir():
            continue
        if vm_id not in rows:
            for place in mounts_in(path):
                yield _path("mount", place, vm_id, partial(_unless_used, services, vm_id, partial(unmount, place)))
            yield _path("directory", path, vm_id, partial(_unless_used, services, vm_id, partial(asyncio.to_thread, remove_tree, path)))
        elif _idle(services, vm_id):
            for file in _ours(path, "*"):
                kind: Kind | None = "socket" if file.is_socket() else "staging" if file.name.endswith(STAGING_SUFFIX) else None
                if kind is not None:
                    yield _path(kind, file, vm_id, partial(_unless_used, services, vm_id, partial(asyncio.to_thread, _discard, file)))


def _half_made(services: Services) -> Iterator[_Found]:
    layout = services.layout
    for directory in (layout.state, layout.config, layout.cache, layout.initramfs_cache, layout.probe_cache):
        for path in _ours(directory, f"*{STAGING_SUFFIX}"):
            if time.time() - path.lstat().st_mtime > _ABANDONED_SECONDS:
                yield _path("staging", path, "", partial(asyncio.to_thread, _discard, path))


def _path(kind: Kind, path: Path, vm_id: str, remove: Callable[[], Awaitable[object]]) -> _Found:
    return _Found(Leftover(kind=kind, what=str(path), vm_id=vm_id), remove)


async def _unless_used(services: Services, vm_id: str, remove: Callable[[], Awaitable[object]]) -> None:
    async with services.locks.hold(vm_id):
        if vm_id in services.live:
            raise BangerError("its machine runs by now")
        await remove()


def _ours(directory: Path, pattern: str) -> Iterator[Path]:
    """What matches in a directory and is no symbolic link of somebody else's making. A machine's files may belong to its own uid."""
    try:
        owner = directory.lstat().st_uid
    except FileNotFoundError:
        return
    if owner == os.getuid():
        yield from sorted(path for path in directory.glob(pattern) if not stat.S_ISLNK(path.lstat().st_mode))


def _discard(path: Path) -> None:
    if path.is_dir():
        remove_tree(path)
    else:
        path.unlink(missing_ok=True)
