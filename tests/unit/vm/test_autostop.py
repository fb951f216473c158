"""Machines that nobody uses, or whose time is over, are stopped: with real Machines over fake drivers and durations of a fraction of a second."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from banger.guest.fields import pack, u32, u64
from banger.guest.frames import Operation
from banger.host.paths import Layout
from banger.image.service import ImageService
from banger.model.config import Config
from banger.model.errors import BadRequest, VmmError
from banger.model.progress import Report, silent
from banger.model.records import VMRecord, VMState
from banger.store import Database, ImageTable, VMTable
from banger.vm.activity import Activity
from banger.vm.change import Change
from banger.vm.create import NewVM
from banger.vm.service import Machines
from tests.unit.vm.fakes import IMAGE, FakeImages, FakeNetwork, FakeRootDisk, FakeVmm, FakeWorld, layout_below

SMALL = NewVM(name="box", system_overlay_bytes=64 << 20, work_disk_bytes=64 << 20)


def stats(load: float) -> bytes:
    """Fields of the RESULT of ``stats``."""
    return pack((16, u64(1)), (17, u64(1 << 30)), (18, u64(1 << 29)), (19, u32(round(load * 1000))))


class Instance:
    """Machines that can be dropped and brought up again like a daemon."""

    def __init__(self, directory: Path) -> None:
        self.layout: Layout = layout_below(directory)
        self.world = FakeWorld(directory)
        self.world.answers[Operation.STATS] = stats(0.0)
        self.database = Database.open(self.layout.database)
        ImageTable(self.database).insert(IMAGE)

    async def up(self, config: Config | None = None) -> Machines:
        self.machines = Machines(
            layout=self.layout,
            database=self.database,
            images=cast(ImageService, FakeImages()),
            vmm=FakeVmm(self.world),
            root_disk=FakeRootDisk(),
            network=FakeNetwork(self.world),
            guest_deadline=5,
            config=config,
        )
        await self.machines.recover()
        return self.machines

    async def create(self, new: NewVM) -> VMRecord:
        return await self.machines.create(new, silent, lambda _: None)

    def age(self, seconds: float) -> None:
        """Make the machine look as if it had been started and used so long ago."""
        then = time.time() - seconds
        VMTable(self.database).update(self.machines.find("box").id, lambda r: replace(r, touched_at=then, runtime=replace(r.runtime, started_at=then)))

    async def stopped(self, limit: float = 10.0) -> VMRecord:
        """The record once the machine is stopped."""
        async with asyncio.timeout(limit):
            while self.machines.find("box").state is not VMState.STOPPED:
                await asyncio.sleep(0.01)
        return self.machines.find("box")


@pytest.fixture
async def instance(tmp_path: Path) -> AsyncIterator[Instance]:
    instance = Instance(tmp_path)
    await instance.up()
    yield instance
    await instance.machines.close()
    await instance.world.close()
    instance.database.close()


async def test_an_idle_machine_is_stopped_and_says_why(instance: Instance, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    await instance.create(replace(SMALL, idle_seconds=0.2))
    record = await instance.stopped()
    assert record.runtime.last_stop_reason == "nobody has used it for 0.2s (--idle)"
    (line,) = [entry for entry in caplog.records if entry.getMessage() == "stopping_vm"]
    assert (line.__dict__["vm_name"], line.__dict__["reason"]) == ("box", record.runtime.last_stop_reason)
    assert instance.world.operations == [Operation.STATS, Operation.SHUTDOWN]
    assert (await instance.machines.start("box", wait_booted=False, report=silent)).state is VMState.RUNNING
    await instance.stopped()


async def test_the_configuration_decides_for_machines_that_do_not_say(instance: Instance) -> None:
    await instance.machines.close()
    await instance.up(Config(auto_stop_stale_after=0.2))
    await instance.create(replace(SMALL, name="never", idle_seconds=0.0))
    await instance.create(SMALL)
    assert (await instance.stopped()).runtime.last_stop_reason == "nobody has used it for 0.2s (auto_stop_stale_after)"
    assert instance.machines.status("never").alive


async def test_an_open_stream_keeps_it_up(instance: Instance) -> None:
    await instance.create(replace(SMALL, idle_seconds=0.15))
    first, second = instance.machines.open_stream("box"), instance.machines.open_stream("box")
    first()
    first()
    await asyncio.sleep(0.4)
    assert instance.machines.status("box").alive
    assert Operation.STATS not in instance.world.operations
    before = time.time()
    second()
    assert instance.machines.find("box").touched_at >= before
    await instance.stopped()


async def test_a_touch_begins_anew(instance: Instance) -> None:
    await instance.create(replace(SMALL, idle_seconds=0.5))
    began = time.monotonic()
    for _ in range(4):
        await asyncio.sleep(0.2)
        instance.machines.touch("box")
    await instance.stopped()
    assert time.monotonic() - began >= 1.3


@pytest.mark.parametrize("silence", [False, True], ids=["busy", "silent"])
async def test_a_busy_or_silent_guest_is_asked_again_later(instance: Instance, silence: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("banger.vm.autostop._ASK_SECONDS", 0.1)
    instance.world.answers[Operation.STATS] = stats(0.6)
    if silence:
        instance.world.silent.add(Operation.STATS)
    await instance.create(replace(SMALL, idle_seconds=0.15))
    async with asyncio.timeout(10):
        while instance.world.operations.count(Operation.STATS) < 3:
            await asyncio.sleep(0.01)
    assert instance.machines.status("box").alive
    instance.world.silent.clear()
    instance.world.answers[Operation.STATS] = stats(0.4)
    await instance.stopped()


async def test_ttl_counts_from_the_start_and_asks_nobody(instance: Instance) -> None:
    instance.world.answers[Operation.STATS] = stats(9.0)
    await instance.create(replace(SMALL, ttl_seconds=0.3))
    instance.machines.open_stream("box")
    assert (await instance.stopped()).runtime.last_stop_reason == "it has run for 0.3s (--ttl)"
    assert Operation.STATS not in instance.world.operations


async def test_a_busy_guest_is_stopped_when_its_time_is_over(instance: Instance) -> None:
    instance.world.answers[Operation.STATS] = stats(9.0)
    await instance.create(replace(SMALL, ttl_seconds=0.5, idle_seconds=0.1))
    assert (await instance.stopped()).runtime.last_stop_reason == "it has run for 0.5s (--ttl)"


async def test_who_comes_at_the_last_moment_keeps_the_machine(instance: Instance) -> None:
    record = await instance.create(replace(SMALL, idle_seconds=0.2))
    async with instance.machines._services.locks.hold(record.id):
        async with asyncio.timeout(10):
            while Operation.STATS not in instance.world.operations:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        close = instance.machines.open_stream("box")
    await asyncio.sleep(0.3)
    assert instance.machines.status("box").alive
    close()
    await instance.stopped()


async def test_deadlines_survive_the_daemon(instance: Instance) -> None:
    await instance.create(replace(SMALL, ttl_seconds=3600))
    await instance.machines.close()
    instance.age(3599.8)
    await instance.up()
    assert instance.machines.status("box").alive
    await instance.stopped()


async def test_after_a_restart_owners_have_a_moment_to_come_back(instance: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("banger.vm.autostop._GRACE_SECONDS", 0.5)
    await instance.create(replace(SMALL, idle_seconds=3600))
    await instance.machines.close()
    instance.age(7200)
    began = time.monotonic()
    await instance.up()
    await instance.stopped()
    assert time.monotonic() - began >= 0.5


async def test_a_failed_stop_is_tried_again(instance: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("banger.vm.autostop._RETRY_SECONDS", 0.1)
    stop, tried = instance.machines._auto_stop._stop, []

    async def fail_once(vm_id: str, reason: str, still_due: Callable[[VMRecord], bool]) -> object:
        tried.append(reason)
        if len(tried) == 1:
            raise VmmError("it resists")
        return await stop(vm_id, reason, still_due)

    monkeypatch.setattr(instance.machines._auto_stop, "_stop", fail_once)
    await instance.create(replace(SMALL, ttl_seconds=0.1))
    await instance.stopped()
    assert len(tried) == 2


async def test_who_stopped_it_is_told(instance: Instance) -> None:
    await instance.create(SMALL)
    assert (await instance.machines.stop("box", timeout=5, report=silent)).runtime.last_stop_reason == "by `vm stop`"
    await instance.machines.start("box", wait_booted=False, report=silent)
    assert (await instance.machines.kill("box", signal="KILL", report=silent)).runtime.last_stop_reason == "by `vm kill` with SIGKILL"


@pytest.mark.parametrize("new", [replace(SMALL, ttl_seconds=-1.0), replace(SMALL, idle_seconds=float("inf")), replace(SMALL, ttl_seconds=float("nan"))])
async def test_nonsense_is_refused(instance: Instance, new: NewVM) -> None:
    with pytest.raises(BadRequest, match="must be between 0 and ten years"):
        await instance.create(new)


async def test_nothing_is_looked_at_while_nothing_is_due(instance: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    await instance.create(replace(SMALL, idle_seconds=3600))
    await asyncio.sleep(0.05)
    looks = 0

    def count() -> tuple[VMRecord, ...]:
        nonlocal looks
        looks += 1
        return ()

    monkeypatch.setattr(instance.machines._auto_stop, "_running", count)
    await asyncio.sleep(0.3)
    assert looks == 0


async def test_a_row_from_the_future_is_used_now(instance: Instance) -> None:
    record = await instance.create(replace(SMALL, start=False))
    activity = Activity()
    future = replace(record, touched_at=time.time() + 9999, runtime=replace(record.runtime, started_at=time.time() + 9999))
    assert activity.used_at(future) == pytest.approx(time.monotonic(), abs=1)
    assert activity.started_at(future) == pytest.approx(time.monotonic(), abs=1)


@pytest.mark.parametrize(("change", "why"), [(Change(ttl_seconds=0.2), "(--ttl)"), (Change(idle_seconds=0.2), "(--idle)")])
async def test_times_that_are_set_while_it_runs_hold_at_once(instance: Instance, change: Change, why: str) -> None:
    await instance.create(SMALL)
    await instance.machines.change("box", change, report=silent)
    assert why in (await instance.stopped()).runtime.last_stop_reason


async def test_a_busy_guest_that_is_asked_again_later_is_asked_now_when_its_time_is_set(instance: Instance) -> None:
    instance.world.answers[Operation.STATS] = stats(3.0)
    await instance.create(replace(SMALL, idle_seconds=20.0))
    instance.age(100)
    await instance.machines.close()
    await instance.up()
    instance.machines._auto_stop._began = -1e9
    instance.machines._auto_stop._wake.set()
    async with asyncio.timeout(10):
        while Operation.STATS not in instance.world.operations:
            await asyncio.sleep(0.01)
    instance.world.answers[Operation.STATS] = stats(0.0)
    await asyncio.sleep(0.05)
    await instance.machines.change("box", Change(idle_seconds=10.0), report=silent)
    assert "10s" in (await instance.stopped()).runtime.last_stop_reason


async def test_stopping_by_itself_is_carried_out_where_users_see_it(instance: Instance) -> None:
    seen: list[tuple[str, str]] = []

    async def carry_out(kind: str, target: str, work: Callable[[Report], Awaitable[object]]) -> None:
        seen.append((kind, target))
        await work(silent)

    instance.machines._carry_out = carry_out
    await instance.create(replace(SMALL, idle_seconds=0.2))
    await instance.stopped()
    assert seen == [("vm.auto_stop", "box")]
