"""The verbs of a machine's life against fake drivers: states, rollback, concurrency, recovery, and that nothing stays."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from banger.guest.frames import Operation
from banger.host.paths import Layout, VMLayout
from banger.image.service import ImageService
from banger.model.errors import (
    AlreadyExists,
    BadRequest,
    BangerError,
    ChannelLost,
    CommandFailed,
    GuestError,
    GuestTimeout,
    NotFound,
    NotRunning,
    StoreError,
    VmmError,
)
from banger.model.progress import silent
from banger.model.records import VMRecord, VMState
from banger.net.protocol import NetworkPlace
from banger.store import Database, ImageTable, Journal, VMTable
from banger.vm.create import NewVM
from banger.vm.service import Machines
from banger.vm.watch import end_reason
from tests.unit.vm.fakes import IMAGE, FakeImages, FakeMachine, FakeNetwork, FakeRootDisk, FakeVmm, FakeWorld, layout_below

SMALL = NewVM(name="box", system_overlay_bytes=64 << 20, work_disk_bytes=64 << 20)


class Instance:
    """A Machines service over fakes that can be dropped and brought up again like a daemon."""

    def __init__(self, directory: Path) -> None:
        self.layout: Layout = layout_below(directory)
        self.world = FakeWorld(directory)
        self.database = Database.open(self.layout.database)
        ImageTable(self.database).insert(IMAGE)
        self.machines = self._machines()

    def _machines(self) -> Machines:
        return Machines(
            layout=self.layout,
            database=self.database,
            images=cast(ImageService, FakeImages()),
            vmm=FakeVmm(self.world),
            root_disk=FakeRootDisk(),
            network=FakeNetwork(self.world),
            guest_deadline=5,
        )

    async def restart_daemon(self) -> None:
        await self.machines.close()
        self.machines = self._machines()
        await self.machines.recover()

    async def create(self, new: NewVM = SMALL) -> VMRecord:
        return await self.machines.create(new, silent, lambda _: None)

    def leftovers(self) -> list[str]:
        """What is there of any machine; empty when all are deleted."""
        directories = [str(path) for path in self.layout.vms.iterdir()] if self.layout.vms.exists() else []
        open_entries = [entry.kind for entry in Journal(self.database).entries()]
        rows = [record.name for record in self.machines.list()]
        return [*directories, *map(str, self.world.processes()), *self.world.attached, *open_entries, *rows]


@pytest.fixture
async def instance(tmp_path: Path) -> AsyncIterator[Instance]:
    instance = Instance(tmp_path)
    yield instance
    await instance.machines.close()
    await instance.world.close()
    instance.database.close()


async def eventually(condition: object, what: str) -> None:
    assert callable(condition)
    for _ in range(250):
        if condition():
            return
        await asyncio.sleep(0.02)
    pytest.fail(f"never happened: {what}")


async def test_a_machine_lives_and_leaves_nothing(instance: Instance) -> None:
    record = await instance.create()
    assert (record.state, record.name, record.runtime.accelerator) == (VMState.RUNNING, "box", "none")
    assert instance.machines.status("box").alive
    assert instance.machines.agent("box").hello.program == "fake"
    await eventually(lambda: instance.machines.find("box").runtime.booted, "booted is noted")
    await instance.machines.delete("box", report=silent)
    assert instance.leftovers() == []


async def test_stages_are_reported_in_order(instance: Instance) -> None:
    stages: list[str] = []

    def report(stage: str, message: str = "", *, progress: float | None = None, warning: bool = False) -> None:
        if stage not in stages:
            stages.append(stage)

    await instance.machines.create(replace(SMALL, wait_booted=True), report, lambda _: None)
    assert stages == [
        "resolve_image", "reserve_vm", "preflight", "system_overlay", "prepare_host_features", "network", "machine_config", "vmm_launch",
        "persist_handles", "wait_for_guest", "configure_guest",
        "post_start_features", "wait_for_boot",
    ]  # fmt: skip


async def test_stop_asks_the_guest_and_start_brings_it_back(instance: Instance) -> None:
    await instance.create()
    disk = instance.machines.status("box").directory / "root.ext4"
    inode = disk.stat().st_ino
    stopped = await instance.machines.stop("box", timeout=5, report=silent)
    assert stopped.state is VMState.STOPPED
    assert Operation.SHUTDOWN in instance.world.operations
    assert instance.world.processes() == []
    assert (await instance.machines.stop("box", timeout=5, report=silent)).state is VMState.STOPPED
    with pytest.raises(NotRunning, match=r"box is not running \(state stopped\)"):
        instance.machines.agent("box")
    assert (await instance.machines.start("box", wait_booted=False, report=silent)).state is VMState.RUNNING
    assert (await instance.machines.start("box", wait_booted=False, report=silent)).state is VMState.RUNNING
    assert len(instance.world.processes()) == 1
    assert disk.stat().st_ino == inode


async def test_a_guest_that_ignores_stop_is_flushed_and_ended(instance: Instance) -> None:
    await instance.create()
    instance.world.faults.ignore_shutdown = True
    assert (await instance.machines.stop("box", timeout=0.1, report=silent)).state is VMState.STOPPED
    assert instance.world.operations[-2:] == [Operation.SHUTDOWN, Operation.SYNC]
    assert instance.world.processes() == []


async def test_restart_gives_another_process(instance: Instance) -> None:
    await instance.create()
    (before,) = instance.world.processes()
    assert (await instance.machines.restart("box", wait_booted=True, report=silent)).runtime.booted
    (after,) = instance.world.processes()
    assert before != after


@pytest.mark.parametrize("name", ["TERM", "sigkill", "9"])
async def test_kill(instance: Instance, name: str) -> None:
    await instance.create()
    assert (await instance.machines.kill("box", signal=name, report=silent)).state is VMState.STOPPED
    assert instance.world.processes() == []


async def test_kill_offers_few_signals(instance: Instance) -> None:
    await instance.create()
    with pytest.raises(BadRequest, match="STOP"):
        await instance.machines.kill("box", signal="STOP", report=silent)


async def test_a_machine_that_ends_by_itself_becomes_stopped(instance: Instance) -> None:
    await instance.create()
    os.kill(instance.world.processes()[0], signal.SIGKILL)
    await eventually(lambda: instance.machines.find("box").state is VMState.STOPPED, "the row says stopped")
    assert not instance.machines.status("box").alive
    assert instance.world.attached == set()


@pytest.mark.parametrize(
    ("fault", "error", "text"),
    [
        ("launch", VmmError, "half launched"),
        ("network", CommandFailed, "half attached"),
        ("exit_at_once", VmmError, "(?s)box: the VMM ended before the guest could say hello.*unsupported option"),
        ("die_before_hello", VmmError, "Kernel panic"),
        ("refuse_configure", GuestError, "no disk"),
    ],
)
async def test_a_failed_start_is_undone_and_told_on_the_row(instance: Instance, fault: str, error: type[BangerError], text: str) -> None:
    setattr(instance.world.faults, fault, True)
    with pytest.raises(error, match=text):
        await instance.create()
    record = instance.machines.find("box")
    assert record.state is VMState.ERROR
    assert re.search(text, record.runtime.last_error)
    assert instance.world.processes() == []
    assert instance.world.attached == set()
    assert not (instance.layout.vm(record.id).overlay_disk).exists()
    setattr(instance.world.faults, fault, False)
    instance.world.faults.silent_guest = False
    assert (await instance.machines.start("box", wait_booted=False, report=silent)).state is VMState.RUNNING
    assert instance.machines.find("box").runtime.last_error == ""


async def test_a_guest_that_never_says_hello_is_given_up(instance: Instance) -> None:
    instance.world.faults.silent_guest = True
    machines = Machines(
        layout=instance.layout, database=instance.database, images=cast(ImageService, FakeImages()), vmm=FakeVmm(instance.world),
        root_disk=FakeRootDisk(), network=FakeNetwork(instance.world), guest_deadline=0.2,
    )  # fmt: skip
    with pytest.raises(GuestTimeout, match=r"did not say hello within 0\.2 s") as caught:
        await machines.create(SMALL, silent, lambda _: None)
    assert (caught.value.vm, caught.value.hint) == ("box", "banger vm logs box")
    assert instance.world.processes() == []


@pytest.mark.parametrize("answers", [True, False])
async def test_where_a_guest_hangs_is_told(instance: Instance, answers: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    async def processors(self: FakeMachine) -> str:
        if not answers:
            raise VmmError("no answer")
        return "0 runs at 1000"

    monkeypatch.setattr(FakeMachine, "processors", processors, raising=False)
    instance.world.faults.silent_guest = True
    machines = Machines(
        layout=instance.layout, database=instance.database, images=cast(ImageService, FakeImages()), vmm=FakeVmm(instance.world),
        root_disk=FakeRootDisk(), network=FakeNetwork(instance.world), guest_deadline=0.2,
    )  # fmt: skip
    with pytest.raises(GuestTimeout, match=r"within 0\.2 s; its CPUs: 0 runs at 1000" if answers else "its VMM does not answer either: no answer"):
        await machines.create(SMALL, silent, lambda _: None)
    assert instance.world.processes() == []


async def test_a_failed_undo_is_joined_and_retried_by_the_next_daemon(instance: Instance) -> None:
    instance.world.faults.launch = instance.world.faults.detach = True
    with pytest.raises(ExceptionGroup) as caught:
        await instance.create()
    assert [str(error) for error in caught.value.exceptions] == ["half launched", "detach broke"]
    assert instance.machines.find("box").state is VMState.ERROR
    instance.world.faults.detach = False
    await instance.restart_daemon()
    assert instance.world.attached == set()
    assert Journal(instance.database).entries() == ()


@pytest.mark.parametrize(
    ("new", "error"),
    [
        (NewVM(name="-bad"), BadRequest),
        (NewVM(name="x", vcpu_count=0), BadRequest),
        (NewVM(name="x", memory_mib=1), BadRequest),
        (NewVM(name="x", memory_mib=1000 * 1024), BadRequest),
        (NewVM(name="x", work_disk_bytes=1), BadRequest),
        (NewVM(name="x", image="nope"), NotFound),
    ],
)
async def test_a_request_that_does_not_validate_leaves_nothing(instance: Instance, new: NewVM, error: type[BangerError]) -> None:
    with pytest.raises(error):
        await instance.create(new)
    assert instance.leftovers() == []


async def test_a_host_without_a_vmm_makes_no_row_and_changes_none(instance: Instance) -> None:
    instance.world.faults.unusable = True
    with pytest.raises(VmmError, match="fake: not installed") as caught:
        await instance.create()
    assert caught.value.hint == "install it"
    assert instance.leftovers() == []
    instance.world.faults.unusable = False
    await instance.create(replace(SMALL, start=False))
    instance.world.faults.unusable = True
    with pytest.raises(VmmError):
        await instance.machines.start("box", wait_booted=False, report=silent)
    assert instance.machines.find("box").state is VMState.STOPPED


async def test_a_full_disk_does_not_keep_a_machine_from_being_deleted(instance: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    await instance.create()
    opened = Journal.open

    def full(journal: Journal, *, op_id: str, kind: str, vm_id: str, context: str) -> int:
        if instance.layout.database.with_name("banger.db.ballast").exists():
            raise StoreError("database or disk is full")
        return opened(journal, op_id=op_id, kind=kind, vm_id=vm_id, context=context)

    monkeypatch.setattr(Journal, "open", full)
    with pytest.raises(StoreError):
        await instance.create(replace(SMALL, name="other"))
    await instance.machines.delete("box", report=silent)
    await instance.machines.delete("other", report=silent)
    assert instance.leftovers() == []


async def test_a_lost_disk_is_told(instance: Instance) -> None:
    record = await instance.create()
    await instance.machines.stop("box", timeout=5, report=silent)
    instance.layout.vm(record.id).work_disk.unlink()
    warnings: list[str] = []

    def report(stage: str, message: str = "", *, progress: float | None = None, warning: bool = False) -> None:
        if warning:
            warnings.append(message)

    await instance.machines.start("box", wait_booted=False, report=report)
    assert any("a disk of box has been removed" in message for message in warnings)


async def test_of_two_creates_with_one_name_exactly_one_wins(instance: Instance) -> None:
    results = await asyncio.gather(*(instance.create() for _ in range(4)), return_exceptions=True)
    assert sum(isinstance(result, VMRecord) for result in results) == 1
    assert sum(isinstance(result, AlreadyExists) for result in results) == 3
    await instance.machines.delete("box", report=silent)
    assert instance.leftovers() == []


async def test_a_cancelled_create_leaves_nothing(instance: Instance) -> None:
    instance.world.faults.silent_guest = True
    reserved = asyncio.Event()
    task = asyncio.create_task(instance.machines.create(SMALL, silent, lambda _: reserved.set()))
    await reserved.wait()
    await eventually(instance.world.processes, "the VMM runs")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert instance.leftovers() == []


async def test_create_without_start(instance: Instance) -> None:
    record = await instance.create(replace(SMALL, start=False))
    assert record.state is VMState.STOPPED
    assert instance.world.processes() == []
    assert not instance.layout.vm(record.id).root.exists()
    await instance.machines.delete(record.id[:6], report=silent)
    assert instance.leftovers() == []


async def test_an_init_that_never_reports_does_not_end_the_machine(instance: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("banger.vm.service._BOOT_DEADLINE", 0.2)
    instance.world.faults.never_booted = True
    with pytest.raises(GuestTimeout, match="keeps running"):
        await instance.create(replace(SMALL, wait_booted=True))
    assert instance.machines.status("box").alive


async def test_a_new_daemon_adopts_what_runs_and_demotes_what_does_not(instance: Instance) -> None:
    await instance.create()
    await instance.create(replace(SMALL, name="dead"))
    pid = instance.machines.status("box").pid
    dead_pid = instance.machines.status("dead").pid
    await instance.machines.close()
    assert dead_pid is not None
    os.kill(dead_pid, signal.SIGKILL)
    await instance.restart_daemon()
    assert instance.machines.status("box").pid == pid
    assert instance.machines.agent("box").hello.state == 2
    await eventually(lambda: instance.machines.find("dead").state is VMState.STOPPED, "the dead one is demoted")
    await instance.machines.stop("box", timeout=5, report=silent)
    assert instance.world.processes() == []


async def test_a_new_daemon_deletes_machines_whose_lease_is_gone(instance: Instance) -> None:
    await instance.create(replace(SMALL, remove=True))
    await instance.restart_daemon()
    assert instance.leftovers() == []


@pytest.mark.parametrize("step", range(9))
async def test_a_daemon_that_died_inside_a_start_is_rolled_back(instance: Instance, step: int) -> None:
    record = await instance.create()
    journal = Journal(instance.database)
    context = f'{{"vm_id":"{record.id}","uid":-1,"had_overlay":false,"had_work_disk":false}}'
    entry = journal.open(op_id="op-dead", kind="vm.start", vm_id=record.id, context=context)
    journal.write(entry, step=step, done=False, context=context)
    VMTable(instance.database).update(record.id, lambda r: replace(r, state=VMState.CREATED))
    await instance.restart_daemon()
    after = instance.machines.find("box")
    assert after.state is VMState.ERROR
    assert "daemon ended" in after.runtime.last_error
    assert instance.world.processes() == []
    assert journal.entries() == ()


@pytest.mark.parametrize(("kind", "state"), [("vm.stop", VMState.STOPPED), ("vm.kill", VMState.STOPPED), ("vm.delete", None)])
@pytest.mark.parametrize("step", [-1, 0, 1])
async def test_a_daemon_that_died_inside_an_end_is_finished(instance: Instance, kind: str, state: VMState | None, step: int) -> None:
    record = await instance.create()
    journal = Journal(instance.database)
    entry = journal.open(op_id="op-dead", kind=kind, vm_id=record.id, context=f'{{"vm_id":"{record.id}"}}')
    journal.write(entry, step=step, done=step < 0, context=f'{{"vm_id":"{record.id}"}}')
    await instance.restart_daemon()
    assert [r.state for r in instance.machines.list()] == ([state] if state else [])
    assert instance.world.processes() == []
    assert instance.world.attached == set()
    assert journal.entries() == ()
    assert state is not None or not instance.layout.vm(record.id).root.exists()


async def test_logs_of_a_running_machine_are_bounded_now_and_then(instance: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("banger.vm.watch._LOG_CHECK_SECONDS", 0.01)
    record = await instance.create()
    await eventually(lambda: instance.world.bounded == {record.id}, "the driver is asked")


async def test_a_guest_that_falls_silent_is_noticed_by_those_who_wait_for_it(instance: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("banger.vm.watch._PING_SECONDS", 0.05)
    monkeypatch.setattr("banger.vm.watch._SILENCE_SECONDS", 0.2)
    await instance.create()
    agent = instance.machines.agent("box")
    await asyncio.sleep(0.2)
    assert not agent.closed
    instance.world.faults.deaf = True
    with pytest.raises(ChannelLost):
        await asyncio.wait_for(agent.sync(), 5)
    with pytest.raises(GuestError, match="does not answer"):
        instance.machines.agent("box")


async def test_a_stop_that_a_daemon_left_open_still_asks_the_guest(instance: Instance) -> None:
    record = await instance.create()
    journal = Journal(instance.database)
    context = f'{{"vm_id":"{record.id}","timeout":5.0}}'
    entry = journal.open(op_id="op-dead", kind="vm.stop", vm_id=record.id, context=context)
    journal.write(entry, step=0, done=False, context=context)
    await instance.restart_daemon()
    assert Operation.SHUTDOWN in instance.world.operations
    assert instance.machines.find("box").state is VMState.STOPPED


async def test_a_broken_channel_is_attached_again(instance: Instance) -> None:
    await instance.create()
    first = instance.machines.agent("box")
    instance.world.guests[-1].cancel()
    await eventually(lambda: first.closed, "the channel ends")

    def attached() -> bool:
        try:
            return instance.machines.agent("box") is not first
        except GuestError:
            return False

    await eventually(attached, "a new channel")
    assert instance.machines.status("box").alive


async def test_the_host_is_checked_once_per_create_and_start(instance: Instance) -> None:
    await instance.create()
    assert instance.world.checks == 1
    await instance.machines.restart("box", wait_booted=False, report=silent)
    assert instance.world.checks == 2


@pytest.mark.parametrize(("number", "why"), [(signal.SIGKILL, "its VMM ended by itself: signal 9"), (signal.SIGTERM, "its VMM ended by itself: signal 15")])
async def test_a_vmm_that_somebody_else_has_killed_says_so(instance: Instance, number: signal.Signals, why: str) -> None:
    await instance.create()
    os.kill(instance.world.processes()[0], number)
    await eventually(lambda: instance.machines.find("box").state is VMState.STOPPED, "it is noticed")
    assert instance.machines.find("box").runtime.last_stop_reason == why


@pytest.mark.parametrize(("status", "why"), [(None, "it ended by itself"), (0, "it ended by itself"), (1, "its VMM ended by itself: status 1")])
def test_why_a_machine_ended(status: int | None, why: str) -> None:
    assert end_reason(status) == why


PANIC = "x\n[    1.2] Kernel panic - not syncing: Attempted to kill init! exitcode=0x{:08x}\n[    1.2] CPU: 0 PID: 1 Comm: init\n"


@pytest.mark.parametrize(("code", "how"), [(0, "with status 0"), (0x300, "with status 3"), (0xB, "by signal 11"), (0x8B, "by signal 11")])
def test_an_init_that_ended_is_why(code: int, how: str) -> None:
    why = end_reason(0, PANIC.format(code))
    assert why.startswith(f"its init ended {how}; the console ends with:\nx\n")
    assert why.endswith("Comm: init")
    assert end_reason(-9, PANIC.format(code)) == "its VMM ended by itself: signal 9"


async def test_a_cancelled_stop_leaves_nothing_open_and_what_the_guest_then_does_is_noticed(instance: Instance) -> None:
    await instance.create()
    instance.world.faults.ignore_shutdown = True
    stop = asyncio.create_task(instance.machines.stop("box", timeout=60, report=silent))
    await eventually(lambda: Operation.SHUTDOWN in instance.world.operations, "the guest was asked")
    stop.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stop
    assert Journal(instance.database).entries() == ()
    assert (instance.machines.status("box").alive, instance.machines.find("box").state) == (True, VMState.RUNNING)
    os.kill(instance.world.processes()[0], signal.SIGKILL)  # as when the guest has powered off after all
    await eventually(lambda: instance.machines.find("box").state is VMState.STOPPED, "it is noticed")


async def test_a_restart_that_is_cancelled_while_it_tidies_up_is_stopped_and_not_started(instance: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    await instance.create()
    tidying, go_on = asyncio.Event(), asyncio.Event()
    detach = FakeNetwork.detach

    async def slow(network: FakeNetwork, vm_id: str, files: VMLayout, place: NetworkPlace) -> None:
        tidying.set()
        await go_on.wait()
        await detach(network, vm_id, files, place)

    monkeypatch.setattr(FakeNetwork, "detach", slow)
    restart = asyncio.create_task(instance.machines.restart("box", wait_booted=False, report=silent))
    await tidying.wait()
    restart.cancel()
    await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await restart
    assert instance.machines.find("box").state is VMState.STOPPED
    assert Journal(instance.database).entries() == ()
    assert instance.world.processes() == []
