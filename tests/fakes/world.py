"""Machines over fake drivers in this very process: dropped and brought up again like a daemon, and held against the oracle."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from banger.host.paths import Layout
from banger.image.kernels import KernelService
from banger.model.progress import silent
from banger.model.records import VMRecord
from banger.storage.overlay import OverlayDisk
from banger.store import Database, ImageTable, KernelTable
from banger.vm.create import NewVM
from banger.vm.service import Machines
from tests import oracle
from tests.e2e.instance import Instance
from tests.fakes.drivers import IMAGE, FakeImages, FakeNetwork, FakeVmm, fake_disks
from tests.fakes.injection import InjectedFailure, InjectingRunner

SIZE = 64 << 20


class Died(BaseException):
    """The daemon's end at some point: nothing of it runs any more, no rollback and no note."""


class DyingRunner(InjectingRunner):
    """A runner that is dead once Died is raised."""

    async def _give_up(self, procedure, context, reached, entry, cause, fail, vm_id):  # type: ignore[no-untyped-def]  # passed on unread
        return [] if isinstance(cause, Died) else await super()._give_up(procedure, context, reached, entry, cause, fail, vm_id)


class World:
    """One instance below ``home`` and its services. ``plan`` maps the next point that is reached to what happens there: ``die`` or ``raise``."""

    def __init__(self, home: Path) -> None:
        self.layout = Layout.from_environment({"BANGER_HOME": str(home)})
        self.layout.state.mkdir(mode=0o700, parents=True)
        self.host = Instance(home)
        self.vmm = FakeVmm()
        self.network = FakeNetwork(home / "network")
        self.plan: dict[str, str] = {}
        self.points: set[str] = set()
        self._begin()

    def _begin(self) -> None:
        self.database = Database.open(self.layout.database)
        self.machines = Machines(
            layout=self.layout,
            database=self.database,
            images=FakeImages(self.layout, ImageTable(self.database), KernelService(self.layout, KernelTable(self.database))),
            vmm=self.vmm,
            root_disk=OverlayDisk(),
            network=self.network,
            guest_deadline=10,
            runner_type=partial(DyingRunner, reach=self._reach),
        )

    def _reach(self, point: str) -> None:
        self.points.add(point)
        match self.plan.pop(point, None):
            case "die":
                raise Died(point)
            case "raise":
                raise InjectedFailure(f"injected at {point}")

    async def create(self, name: str = "", *, start: bool = True) -> VMRecord:
        new = NewVM(name=name, image=IMAGE.name, start=start, system_overlay_bytes=SIZE, work_disk_bytes=SIZE)
        return await self.machines.create(new, silent, lambda _: None)

    async def next_daemon(self) -> None:
        """What runs goes on, everything in memory is lost."""
        await self.machines.close()
        self.database.close()
        self.plan.clear()
        self._begin()
        await self.machines.recover()

    def wrong(self) -> list[str]:
        """Where the host differs from what the rows promise."""
        running = {row["id"] for row in self.host.rows("vms") if row["state"] == "running"}
        wrong = oracle.broken_promises(self.host)
        return wrong if self.network.attached() == running else [*wrong, f"attached: {sorted(self.network.attached())}, running: {sorted(running)}"]

    def left(self) -> list[str]:
        """What is left of anything, once all machines are deleted."""
        return oracle.leftovers(self.host) + [f"network of {name}" for name in self.network.attached()]

    async def close(self) -> None:
        await self.machines.close()
        self.database.close()
        for pid, _ in list(oracle.processes_of(str(self.host.home))):
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


@asynccontextmanager
async def world_below(home: Path) -> AsyncIterator[World]:
    """A world, and nothing of it afterwards."""
    with fake_disks():
        world = World(home)
        try:
            yield world
        finally:
            await world.close()
