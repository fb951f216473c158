"""Verbs that meet: each as the docstrings of vm/service.py say, and nothing leaks."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from banger.model.errors import AlreadyExists, NotFound, NotStopped, VmmError
from banger.model.progress import silent
from banger.model.records import VMRecord, VMState
from banger.store import Journal
from banger.vm.change import Change
from tests.fakes.drivers import running
from tests.fakes.world import World, world_below


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with world_below(tmp_path / "instance") as world:
        yield world
        assert world.wrong() == []


async def half_way(world: World) -> None:
    """Wait until somebody waits at the closed gate of the network."""
    async with asyncio.timeout(10):
        while not any(name.endswith(".half") for name in world.network.attached()):
            await asyncio.sleep(0.005)


async def creating(world: World) -> asyncio.Task[VMRecord]:
    """A create of ``box`` that waits in the middle of its start."""
    world.network.gate.clear()
    task = asyncio.create_task(world.create("box"))
    await half_way(world)
    return task


async def test_sixteen_creates_at_once(world: World) -> None:
    records = await asyncio.gather(*(world.create() for _ in range(16)))
    assert {record.state for record in records} == {VMState.RUNNING}
    assert len({record.name for record in records}) == 16
    assert os.geteuid() != 0 or len({record.runtime.vmm_uid for record in records}) == 16
    assert world.wrong() == []
    await asyncio.gather(*(world.machines.delete(record.id, report=silent) for record in records))
    assert world.left() == []


async def test_one_slow_start_keeps_nobody_waiting(world: World) -> None:
    await world.create("quick", start=False)
    task = await creating(world)
    assert (await world.machines.change("quick", Change(memory_mib=384), report=silent)).spec.memory_mib == 384
    await world.machines.delete("quick", report=silent)
    world.network.gate.set()
    assert (await task).state is VMState.RUNNING


async def test_a_stop_during_a_create_waits_for_it_and_stops_the_machine(world: World) -> None:
    create = await creating(world)
    stop = asyncio.create_task(world.machines.stop("box", timeout=5, report=silent))
    await asyncio.sleep(0.05)
    assert not stop.done()
    world.network.gate.set()
    assert (await create).state is VMState.RUNNING
    assert (await stop).state is VMState.STOPPED


async def test_a_delete_interrupts_a_start_that_has_no_vmm_yet(world: World) -> None:
    await world.create("box", start=False)
    world.network.gate.clear()
    start = asyncio.create_task(world.machines.start("box", wait_booted=False, report=silent))
    await half_way(world)
    async with asyncio.timeout(5):
        assert (await world.machines.delete("box", report=silent)).name == "box"
    with pytest.raises(VmmError, match="box was deleted by another command"):
        await start
    assert world.left() == []


async def test_a_kill_interrupts_a_start_that_has_no_vmm_yet(world: World) -> None:
    create = await creating(world)
    stop = asyncio.create_task(world.machines.stop("box", timeout=5, report=silent))
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        record = await world.machines.kill("box", signal="TERM", report=silent)
    assert (record.state, record.runtime.last_error) == (VMState.ERROR, "box was killed by another command meanwhile")
    with pytest.raises(VmmError, match="box was killed by another command"):
        await create
    assert (await stop).state is VMState.ERROR
    assert world.wrong() == []
    world.network.gate.set()
    assert (await world.machines.start("box", wait_booted=False, report=silent)).state is VMState.RUNNING


async def frozen(world: World) -> int:
    """Pid of the VMM of ``box``, which does nothing any more."""
    async with asyncio.timeout(10):
        while not (pids := running(world.machines.find("box").id)):
            await asyncio.sleep(0.005)
    os.kill(pids[0], signal.SIGSTOP)
    return pids[0]


@pytest.mark.parametrize("verb", ["kill", "delete"])
async def test_a_machine_that_hangs_while_it_boots_is_ended_at_once(world: World, verb: str) -> None:
    world.vmm.faults = "silent"
    create = asyncio.create_task(world.create("box"))
    await asyncio.sleep(0.05)
    await frozen(world)
    async with asyncio.timeout(5):
        await (world.machines.kill("box", signal="KILL", report=silent) if verb == "kill" else world.machines.delete("box", report=silent))
    with pytest.raises(VmmError, match="by another command"):
        await create
    assert world.wrong() == []


@pytest.mark.parametrize("verb", ["kill", "delete"])
@pytest.mark.parametrize("waiting", ["stop", "restart"])
async def test_a_machine_that_hangs_while_it_stops_is_ended_at_once(world: World, waiting: str, verb: str) -> None:
    await world.create("box")
    await frozen(world)
    machines = world.machines
    stop = asyncio.create_task(
        machines.stop("box", timeout=60, report=silent) if waiting == "stop" else machines.restart("box", wait_booted=False, report=silent)
    )
    await asyncio.sleep(0.05)
    async with asyncio.timeout(5):
        ended = await (machines.kill("box", signal="KILL", report=silent) if verb == "kill" else machines.delete("box", report=silent))
    with pytest.raises(VmmError, match="by another command"):
        await stop
    if verb == "kill":
        assert (ended.state, ended.runtime.last_stop_reason, ended.runtime.last_error) == (VMState.STOPPED, "by `vm kill` with SIGKILL", "")
    assert world.wrong() == []
    assert Journal(world.database).entries() == ()


async def test_a_second_kill_helps_the_first(world: World) -> None:
    await world.create("box")
    await frozen(world)
    term = asyncio.create_task(world.machines.kill("box", signal="TERM", report=silent))
    await asyncio.sleep(0.05)
    async with asyncio.timeout(5):
        await world.machines.kill("box", signal="9", report=silent)
        assert (await term).state is VMState.STOPPED


async def test_of_two_deletes_one_deletes_and_the_other_finds_nothing(world: World) -> None:
    await world.create("box")
    results = await asyncio.gather(*(world.machines.delete("box", report=silent) for _ in range(3)), return_exceptions=True)
    assert sum(isinstance(result, VMRecord) for result in results) == 1
    assert sum(isinstance(result, NotFound) for result in results) == 2
    assert world.left() == []


async def test_a_prune_during_a_create_leaves_the_machine_alone(world: World) -> None:
    create = await creating(world)
    prune = asyncio.create_task(world.machines.delete("box", report=silent, unless_running=True))
    await asyncio.sleep(0.05)
    world.network.gate.set()
    with pytest.raises(NotStopped, match="left alone"):
        await prune
    assert (await create).state is VMState.RUNNING


async def test_a_name_is_free_when_its_machine_is_gone_and_not_before(world: World) -> None:
    await world.create("box")
    delete = asyncio.create_task(world.machines.delete("box", report=silent))
    await asyncio.sleep(0)
    with pytest.raises(AlreadyExists):
        await world.create("box")
    await delete
    assert (await world.create("box")).state is VMState.RUNNING


async def test_start_twice_at_once_makes_one_machine(world: World) -> None:
    await world.create("box", start=False)
    both = await asyncio.gather(*(world.machines.start("box", wait_booted=True, report=silent) for _ in range(2)))
    assert {record.state for record in both} == {VMState.RUNNING}


async def test_kill_and_stop_at_once_both_succeed(world: World) -> None:
    await world.create("box")
    both = await asyncio.gather(world.machines.kill("box", signal="KILL", report=silent), world.machines.stop("box", timeout=5, report=silent))
    assert {record.state for record in both} == {VMState.STOPPED}


async def test_who_waits_for_a_machine_can_give_up(world: World) -> None:
    create = await creating(world)
    stop = asyncio.create_task(world.machines.stop("box", timeout=5, report=silent))
    await asyncio.sleep(0.01)
    stop.cancel()
    await asyncio.gather(stop, return_exceptions=True)
    world.network.gate.set()
    assert (await create).state is VMState.RUNNING
    assert world.machines.find("box").state is VMState.RUNNING


async def test_a_create_that_is_cancelled_while_a_stop_waits_leaves_nothing(world: World) -> None:
    create = await creating(world)
    stop = asyncio.create_task(world.machines.stop("box", timeout=5, report=silent))
    await asyncio.sleep(0.01)
    create.cancel()
    world.network.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await create
    await asyncio.gather(stop, return_exceptions=True)
    assert world.left() == []


async def test_a_start_that_is_cancelled_just_before_there_is_a_process_leaves_none(world: World) -> None:
    await world.create("box", start=False)
    world.vmm.may_spawn.clear()
    start = asyncio.create_task(world.machines.start("box", wait_booted=False, report=silent))
    async with asyncio.timeout(10):
        while not list(world.layout.vms.glob("*/console.log")):
            await asyncio.sleep(0.005)
    start.cancel()
    await asyncio.sleep(0.05)
    world.vmm.may_spawn.set()
    with pytest.raises(asyncio.CancelledError):
        await start
    await asyncio.sleep(0.05)
    assert world.wrong() == []
