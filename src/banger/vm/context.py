"""What the services of a machine share: the drivers, the store and the running machines."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from ..guest.agent import Agent
from ..host.paths import Layout
from ..host.process import is_alive
from ..image.service import ImageService
from ..model.records import VMRecord, VMState
from ..net.protocol import Network
from ..storage.protocol import RootDisk
from ..store import Database, ImageTable, VMTable
from ..vmm.protocol import Machine, Vmm
from .capabilities import Capabilities
from .handles import HandleCache
from .steps import StepRunner


@dataclass(slots=True)
class Live:
    """A machine that runs: its VMM process, and its agent's channel while there is one."""

    machine: Machine
    agent: Agent | None = None
    watcher: asyncio.Task[None] | None = None


class VMLocks:
    """One lock per machine, held for the body of an operation on it. Waiters can be cancelled; unused locks are forgotten."""

    def __init__(self) -> None:
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}

    @asynccontextmanager
    async def hold(self, vm_id: str) -> AsyncIterator[None]:
        """Hold the machine's lock."""
        lock, users = self._locks.get(vm_id, (asyncio.Lock(), 0))
        self._locks[vm_id] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            lock, users = self._locks.pop(vm_id)
            if users > 1:
                self._locks[vm_id] = (lock, users - 1)

    def held(self, vm_id: str) -> bool:
        """Whether somebody works on the machine right now, or waits to."""
        return vm_id in self._locks


def disk_owner(record: VMRecord) -> int:
    """The uid that a machine's files are given to; -1 = they stay ours, for only root can give files away. A VMM gets them as descriptors anyway."""
    return record.runtime.vmm_uid if os.geteuid() == 0 else -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """Everything a step may use. Built once by the composition root."""

    layout: Layout
    database: Database
    vms: VMTable
    image_table: ImageTable
    images: ImageService
    vmm: Vmm
    root_disk: RootDisk
    network: Network
    runner: StepRunner
    handles: HandleCache
    capabilities: Capabilities
    guest_deadline: float
    """Seconds that a guest has from launch to hello, and again to ready."""
    live: dict[str, Live] = field(default_factory=dict)
    locks: VMLocks = field(default_factory=VMLocks)

    def alive(self, record: VMRecord) -> bool:
        """The one answer to "does it run": its state says so and its very VMM process exists."""
        live = self.live.get(record.id)
        return record.state is VMState.RUNNING and live is not None and is_alive(live.machine.process)
