"""``vm set`` and ``vm prune`` against fake drivers: what may change when, recovery, and that a failure changes nothing."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from banger.model.errors import BadRequest, NoSpace, NotFound, NotStopped, VmmError
from banger.model.progress import silent
from banger.model.records import ProcessIdentity, VMState
from banger.store import Journal
from banger.store.codec import to_json
from banger.vm.change import Change, SetContext
from tests.unit.vm.test_service import SMALL, Instance

GIB = 1 << 30


@pytest.fixture
async def instance(tmp_path: Path) -> AsyncIterator[Instance]:
    instance = Instance(tmp_path)
    yield instance
    await instance.machines.close()
    await instance.world.close()
    instance.database.close()


async def stopped(instance: Instance, name: str = "box") -> None:
    await instance.create(replace(SMALL, name=name))
    await instance.machines.stop(name, timeout=5, report=silent)


async def test_everything_changes_at_once_and_is_there_after_the_start(instance: Instance) -> None:
    await stopped(instance)
    files = instance.layout.vm(instance.machines.find("box").id)
    change = Change(vcpu_count=3, memory_mib=777, system_overlay_bytes=GIB, work_disk_bytes=GIB, nat=True)
    spec = (await instance.machines.change("box", change, report=silent)).spec
    assert (spec.vcpu_count, spec.memory_mib, spec.system_overlay_bytes, spec.work_disk_bytes, spec.nat) == (3, 777, GIB, GIB, True)
    assert (files.overlay_disk.stat().st_size, files.work_disk.stat().st_size) == (GIB, GIB)
    assert (await instance.machines.start("box", wait_booted=False, report=silent)).spec == spec
    assert Journal(instance.database).entries() == ()


async def test_what_is_not_named_stays(instance: Instance) -> None:
    await stopped(instance)
    before = instance.machines.find("box").spec
    assert (await instance.machines.change("box", Change(memory_mib=256), report=silent)).spec == replace(before, memory_mib=256)


async def test_disks_that_are_not_made_yet_are_made_in_the_new_size(instance: Instance) -> None:
    record = await instance.create(replace(SMALL, start=False))
    await instance.machines.change("box", Change(work_disk_bytes=GIB), report=silent)
    await instance.machines.start("box", wait_booted=False, report=silent)
    assert instance.layout.vm(record.id).work_disk.stat().st_size == GIB


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (Change(), "nothing to change"),
        (Change(vcpu_count=0), "vcpu must be between 1 and 64, not 0"),
        (Change(memory_mib=1), "memory must be between"),
        (Change(work_disk_bytes=1), "disk-size must be between"),
        (Change(work_disk_bytes=256 << 30), "disk-size must be between"),
        (Change(system_overlay_bytes=-1), "system-overlay-size must be between"),
        (Change(memory_mib=256, work_disk_bytes=65 << 20), "box: a disk cannot shrink: disk-size is 128M, 65M was asked for"),
        (Change(system_overlay_bytes=65 << 20), "box: a disk cannot shrink: system-overlay-size is 128M, 65M was asked for"),
    ],
)
async def test_nonsense_is_refused_and_changes_nothing(instance: Instance, change: Change, text: str) -> None:
    await instance.create(replace(SMALL, start=False, work_disk_bytes=128 << 20, system_overlay_bytes=128 << 20))
    before = instance.machines.find("box")
    with pytest.raises(BadRequest, match=text):
        await instance.machines.change("box", change, report=silent)
    assert instance.machines.find("box") == before


@pytest.mark.parametrize("change", [Change(vcpu_count=1), Change(memory_mib=256), Change(work_disk_bytes=GIB), Change(nat=True, memory_mib=256)])
async def test_a_running_machine_must_be_stopped_first(instance: Instance, change: Change) -> None:
    before = await instance.create()
    with pytest.raises(NotStopped, match="box is running") as caught:
        await instance.machines.change("box", change, report=silent)
    assert caught.value.hint == "banger vm stop box"
    assert instance.machines.find("box").spec == before.spec


async def test_what_is_so_already_is_no_change_even_while_it_runs(instance: Instance) -> None:
    before = await instance.create()
    assert (await instance.machines.change("box", Change(nat=False, memory_mib=before.spec.memory_mib), report=silent)).spec == before.spec
    with pytest.raises(NotFound):
        await instance.machines.change("nobody", Change(nat=True), report=silent)


async def test_a_failure_leaves_the_old_size_and_is_told(instance: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    await stopped(instance)
    before = instance.machines.find("box").spec

    async def full(*_: object) -> None:
        raise NoSpace("no space left while growing")

    monkeypatch.setattr("banger.vm.work_disk.grow_work_disk", full)
    with pytest.raises(NoSpace):
        await instance.machines.change("box", Change(memory_mib=256, work_disk_bytes=GIB), report=silent)
    failed = instance.machines.find("box")
    assert (failed.spec, failed.state, failed.runtime.last_error) == (before, VMState.STOPPED, "no space left while growing")
    assert Journal(instance.database).entries() == ()
    monkeypatch.undo()
    changed = await instance.machines.change("box", Change(work_disk_bytes=GIB), report=silent)
    assert (changed.spec.work_disk_bytes, changed.runtime.last_error) == (GIB, "")


@pytest.mark.parametrize("step", [-1, 0, 1])
@pytest.mark.parametrize("gone", [False, True])
async def test_a_daemon_that_died_inside_a_change_is_finished(instance: Instance, step: int, gone: bool) -> None:
    await stopped(instance)
    record = instance.machines.find("box")
    wanted = replace(record.spec, vcpu_count=7, system_overlay_bytes=GIB, work_disk_bytes=GIB)
    journal = Journal(instance.database)
    context = to_json(SetContext(vm_id=record.id, uid=-1, spec=wanted))
    entry = journal.open(op_id="op-dead", kind="vm.set", vm_id=record.id, context=context)
    journal.write(entry, step=step, done=step < 0, context=context)
    if gone:
        instance.machines._services.vms.delete(record.id)
    await instance.restart_daemon()
    assert journal.entries() == ()
    assert [one.spec for one in instance.machines.list()] == ([] if gone else [wanted])
    if not gone and step < 1:
        assert instance.layout.vm(record.id).work_disk.stat().st_size == GIB


async def test_many_at_once(instance: Instance) -> None:
    names = [f"m{number}" for number in range(4)]
    for name in names:
        await instance.create(replace(SMALL, name=name, start=False))
    await instance.machines.start("m2", wait_booted=False, report=silent)
    results = await asyncio.gather(*(instance.machines.change(name, Change(memory_mib=300), report=silent) for name in names), return_exceptions=True)
    assert [isinstance(result, NotStopped) for result in results] == [False, False, True, False]
    assert [instance.machines.find(name).spec.memory_mib for name in ("m0", "m1", "m3")] == [300, 300, 300]


async def test_prune_spares_what_runs_by_now(instance: Instance) -> None:
    await instance.create(replace(SMALL, name="idle", start=False))
    creating = asyncio.create_task(instance.create())
    while not [record for record in instance.machines.list() if record.name == "box"]:
        await asyncio.sleep(0)
    assert instance.machines.find("box").state is VMState.CREATED
    results = await asyncio.gather(
        *(instance.machines.delete(name, report=silent, unless_running=True) for name in ("idle", "box")),
        return_exceptions=True,
    )
    assert (await creating).state is VMState.RUNNING
    assert isinstance(results[1], NotStopped), "a machine that was being made when it was chosen"
    assert [record.name for record in instance.machines.list()] == ["box"]
    assert instance.machines.status("box").alive


async def with_card(instance: Instance) -> None:
    instance.world.cards = True
    await instance.create(replace(SMALL, nat=True))


async def test_the_network_of_a_running_machine_is_switched(instance: Instance) -> None:
    await with_card(instance)
    for nat in (False, False, True):
        assert (await instance.machines.change("box", Change(nat=nat), report=silent)).spec.nat is nat
    assert instance.world.links == [False, True], "what is so already is not done again"
    assert instance.machines.status("box").alive
    assert Journal(instance.database).entries() == ()
    await instance.machines.change("box", Change(nat=False), report=silent)
    await instance.restart_daemon()
    assert instance.machines.find("box").spec.nat is False
    restarted = await instance.machines.restart("box", wait_booted=False, report=silent)
    assert (restarted.runtime.has_card, restarted.spec.nat) == (False, False)


async def test_a_machine_without_a_card_has_to_be_stopped_to_get_one(instance: Instance) -> None:
    instance.world.cards = True
    await instance.create()
    with pytest.raises(NotStopped, match="box was started without a network card") as caught:
        await instance.machines.change("box", Change(nat=True), report=silent)
    assert caught.value.hint == "banger vm stop box; banger vm set box --nat; banger vm start box"
    assert instance.world.links == []


@dataclass
class Unswitchable:
    """The least that a driver's machine can do."""

    process: ProcessIdentity

    async def connect_agent(self) -> socket.socket:
        raise VmmError("nobody listens")

    async def signal(self, name: str) -> bool:
        raise AssertionError(name)

    async def end(self) -> None:
        """Left to the fixture."""


async def test_a_vmm_that_cannot_switch_says_so(instance: Instance) -> None:
    await with_card(instance)
    live = instance.machines._services.live[instance.machines.find("box").id]
    live.machine = Unswitchable(live.machine.process)
    with pytest.raises(NotStopped, match="fake cannot switch the network of a machine that runs") as caught:
        await instance.machines.change("box", Change(nat=False), report=silent)
    assert caught.value.hint == "banger vm stop box"


async def test_a_network_that_could_not_be_switched_is_told_and_not_recorded(instance: Instance) -> None:
    await with_card(instance)
    instance.world.faults.switch = True
    with pytest.raises(VmmError):
        await instance.machines.change("box", Change(nat=False), report=silent)
    record = instance.machines.find("box")
    assert (record.spec.nat, record.state, record.runtime.last_error) == (True, VMState.RUNNING, "QEMU refused")


async def test_a_daemon_that_died_before_it_switched_the_network_is_finished(instance: Instance) -> None:
    await with_card(instance)
    record = instance.machines.find("box")
    context = to_json(SetContext(vm_id=record.id, uid=-1, spec=replace(record.spec, nat=False)))
    Journal(instance.database).open(op_id="op-dead", kind="vm.set", vm_id=record.id, context=context)
    await instance.restart_daemon()
    assert instance.world.links == [False]
    assert (instance.machines.find("box").spec.nat, instance.machines.status("box").alive) == (False, True)


async def test_times_change_while_it_runs_and_while_it_does_not(instance: Instance) -> None:
    await instance.create()
    spec = (await instance.machines.change("box", Change(ttl_seconds=3600.0, idle_seconds=0.0), report=silent)).spec
    assert (spec.ttl_seconds, spec.idle_seconds) == (3600.0, 0.0)
    await instance.machines.stop("box", timeout=5, report=silent)
    spec = (await instance.machines.change("box", Change(ttl_seconds=0.0), report=silent)).spec
    assert (spec.ttl_seconds, spec.idle_seconds) == (0.0, 0.0)
    with pytest.raises(BadRequest, match="ttl"):
        await instance.machines.change("box", Change(ttl_seconds=-1.0), report=silent)


@pytest.mark.parametrize("disk", ["system.overlay", "root.ext4"])
async def test_a_disk_that_was_removed_by_hand_is_told(instance: Instance, disk: str) -> None:
    await stopped(instance)
    root = instance.machines.status("box").directory
    warnings: list[str] = []

    def report(stage: str, message: str = "", *, progress: float | None = None, warning: bool = False) -> None:
        warnings.extend([message] if warning else [])

    await instance.machines.change("box", Change(memory_mib=300), report=report)
    assert warnings == []
    (root / disk).unlink()
    await instance.machines.change("box", Change(work_disk_bytes=GIB), report=report)
    assert warnings == [f"a disk of box has been removed from {root}: the next start makes an empty one"]
