"""What a new daemon finds: damaged handles, other boots, reused pids, vanished directories, machines and guests that resist."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from banger.host import facts, process
from banger.host.run import spawn
from banger.model.errors import GuestError, GuestTimeout, VmmError
from banger.model.progress import silent
from banger.model.records import ProcessIdentity, VMRecord, VMState
from banger.store import Journal
from banger.store.codec import to_json
from banger.vm.stop import EndContext
from tests.unit.vm.fakes import FakeMachine, FakeVmm
from tests.unit.vm.test_service import SMALL, Instance, eventually


@pytest.fixture
async def instance(tmp_path: Path) -> AsyncIterator[Instance]:
    instance = Instance(tmp_path)
    yield instance
    await instance.machines.close()
    await instance.world.close()
    instance.database.close()


@pytest.fixture
async def bystander(tmp_path: Path) -> AsyncIterator[ProcessIdentity]:
    """A process of ours that is no machine."""
    child = spawn(["sleep", "1000"], output=tmp_path / "bystander.log")
    yield child
    await process.end(child)


async def die_and_recover(instance: Instance) -> None:
    """The end of a daemon that had no time to say goodbye, and the start of the next one."""
    await instance.machines.close()
    instance.machines = instance._machines()
    await instance.machines.recover()


async def test_machines_are_found_with_one_look_at_the_host(instance: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(6):
        await instance.create(replace(SMALL, name=f"m{number}"))
    monkeypatch.setattr("tests.unit.vm.fakes.FakeVmm.adopt", None)
    await die_and_recover(instance)
    assert instance.world.looks == 2, "one to adopt, one to log what is left"
    assert all(instance.machines.agent(f"m{number}").hello.state == 2 for number in range(6))


async def test_a_driver_that_can_only_adopt_one_by_one(instance: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    class OneByOne(FakeVmm):
        list_machines = None  # type: ignore[assignment]

    await instance.create()
    monkeypatch.setattr("tests.unit.vm.test_service.FakeVmm", OneByOne)
    await die_and_recover(instance)
    assert instance.machines.agent("box").hello.state == 2


async def test_a_guest_that_hangs_keeps_nobody_waiting(instance: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    await instance.create()
    far: list[socket.socket] = []

    async def deaf(_: FakeMachine) -> socket.socket:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        far.append(theirs)
        return ours

    with monkeypatch.context() as patched:
        patched.setattr(FakeMachine, "connect_agent", deaf)
        patched.setattr("banger.vm.watch._ADOPTION_SECONDS", 0.05)
        await die_and_recover(instance)
        assert instance.machines.status("box").alive
        with pytest.raises(GuestError, match="does not answer"):
            instance.machines.agent("box")
    for one in far:
        one.close()

    def attached() -> bool:
        try:
            return instance.machines.agent("box").hello.state == 2
        except GuestError:
            return False

    await eventually(attached, "the watcher attaches once it answers")


@pytest.mark.parametrize("damage", ["missing", "empty", "binary", "wrong types", "huge", "directory", "fifo", "other boot", "bystander", "reused pid"])
async def test_handles_are_a_hint_and_the_machine_is_the_truth(instance: Instance, bystander: ProcessIdentity, damage: str) -> None:
    record = await instance.create()
    pid = instance.machines.status("box").pid
    file = instance.layout.vm(record.id).handles
    good = json.loads(file.read_text())
    file.unlink()
    contents = {
        "empty": b"",
        "binary": os.urandom(500),
        "wrong types": b'{"boot_id": 7, "vmm": "x"}',
        "huge": b"[" * 3_000_000,
        "other boot": json.dumps(good | {"boot_id": "another"}).encode(),
        "bystander": json.dumps(good | {"vmm": {"pid": bystander.pid, "start_time": bystander.start_time}}).encode(),
        "reused pid": json.dumps(good | {"vmm": {"pid": bystander.pid, "start_time": 1}}).encode(),
    }
    if damage == "directory":
        file.mkdir()
    elif damage == "fifo":  # opening it waits for a writer
        os.mkfifo(file)
    elif damage in contents:
        file.write_bytes(contents[damage])
    await die_and_recover(instance)
    assert instance.machines.status("box").pid == pid
    if damage != "directory":
        assert json.loads(file.read_text())["vmm"]["pid"] == pid
        assert json.loads(file.read_text())["boot_id"] == facts.boot_id()
    await instance.machines.delete("box", report=silent)
    assert instance.leftovers() == []
    assert process.is_alive(bystander)


async def test_handles_that_name_somebody_else_do_not_revive_a_dead_machine(instance: Instance, bystander: ProcessIdentity) -> None:
    record = await instance.create()
    file = instance.layout.vm(record.id).handles
    handles = json.loads(file.read_text())
    await instance.machines.close()
    await process.end(process.identify(instance.world.processes()[0]))
    file.write_text(json.dumps(handles | {"vmm": {"pid": bystander.pid, "start_time": bystander.start_time}}))
    await die_and_recover(instance)
    assert instance.machines.find("box").state is VMState.STOPPED
    assert process.is_alive(bystander)
    assert not file.exists()


async def test_a_reused_pid_is_never_signalled(bystander: ProcessIdentity) -> None:
    reused = replace(bystander, start_time=bystander.start_time - 1)
    assert not process.is_alive(reused)
    assert not await process.end(reused, grace=1)
    assert process.is_alive(bystander)


@pytest.mark.parametrize("restart", [False, True])
async def test_a_directory_that_vanished_under_a_running_machine(instance: Instance, restart: bool) -> None:
    record = await instance.create()
    shutil.rmtree(instance.layout.vm(record.id).root)
    if restart:
        await die_and_recover(instance)
    assert instance.machines.status("box").alive
    assert (await instance.machines.stop("box", timeout=5, report=silent)).state is VMState.STOPPED
    assert instance.world.processes() == []
    assert (await instance.machines.start("box", wait_booted=False, report=silent)).state is VMState.RUNNING
    shutil.rmtree(instance.layout.vm(record.id).root)
    await instance.machines.delete("box", report=silent)
    assert instance.leftovers() == []


async def test_a_directory_that_vanished_under_a_stopped_machine(instance: Instance) -> None:
    record = await instance.create()
    await instance.machines.stop("box", timeout=5, report=silent)
    shutil.rmtree(instance.layout.vm(record.id).root)
    await die_and_recover(instance)
    assert instance.machines.status("box").overlay_allocated_bytes == 0
    assert (await instance.machines.start("box", wait_booted=False, report=silent)).state is VMState.RUNNING


async def test_a_vmm_that_ignores_signals_is_ended_all_the_same(instance: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("banger.vm.stop._KILL_WAIT", 0.2)
    real = spawn
    monkeypatch.setattr("tests.unit.vm.fakes.spawn", lambda argv, output: real(["env", "--ignore-signal=TERM", *argv], output=output))
    await instance.create()
    await eventually(instance.world.processes, "env has become sleep")
    warnings: list[str] = []

    def report(stage: str, message: str = "", *, progress: float | None = None, warning: bool = False) -> None:
        if warning:
            warnings.append(message)

    assert (await instance.machines.kill("box", signal="TERM", report=report)).state is VMState.STOPPED
    assert warnings == ["the VMM did not end within 0.2 s of SIGTERM"]
    assert instance.world.processes() == []


async def test_a_vmm_that_cannot_be_killed_is_told_and_the_next_attempt_ends_it(instance: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    await instance.create()
    instance.world.faults.ignore_shutdown = True
    with monkeypatch.context() as patched:
        patched.setattr("banger.vm.cleanup._KILL_WAIT", 0.1)
        patched.setattr(FakeMachine, "end", lambda _: asyncio.sleep(60))
        with pytest.raises(ExceptionGroup) as caught:
            await instance.machines.stop("box", timeout=0.05, report=silent)
    (error,) = caught.value.exceptions
    assert isinstance(error, VmmError)
    assert "does not end although it was killed" in error.message
    record = instance.machines.find("box")
    assert (record.state, instance.machines.status("box").alive) == (VMState.RUNNING, True)
    assert record.runtime.last_error
    assert (await instance.machines.stop("box", timeout=1, report=silent)).state is VMState.STOPPED
    assert instance.world.processes() == []


async def test_a_reservation_that_never_started_stays_and_can_be_started(instance: Instance) -> None:
    await instance.create(replace(SMALL, start=False))
    machines = instance.machines
    machines._services.vms.update(machines.find("box").id, lambda record: replace(record, state=VMState.CREATED))
    await die_and_recover(instance)
    record = instance.machines.find("box")
    assert (record.state, record.runtime.last_error) == (VMState.CREATED, "")
    assert Journal(instance.database).entries() == ()
    assert (await instance.machines.start("box", wait_booted=False, report=silent)).state is VMState.RUNNING


async def test_a_machine_that_runs_although_its_row_says_stopped_is_ended(instance: Instance) -> None:
    record = await instance.create()
    instance.machines._services.vms.update(record.id, lambda one: replace(one, state=VMState.STOPPED))
    await die_and_recover(instance)
    assert instance.world.processes() == []
    assert instance.machines.find("box").state is VMState.STOPPED


@pytest.mark.parametrize("where", ["in the stop", "before the start"])
async def test_a_restart_that_did_not_come_to_its_start_is_told(instance: Instance, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    record = await instance.create()
    if where == "in the stop":
        context = EndContext(vm_id=record.id, timeout=5, reason="by `vm restart`", then_start=True)
        Journal(instance.database).open(op_id="op-1", kind="vm.stop", vm_id=record.id, context=to_json(context))
    else:

        async def never(*_: object) -> VMRecord:
            raise asyncio.CancelledError

        monkeypatch.setattr(instance.machines, "_start_locked", never)
        with pytest.raises(asyncio.CancelledError):
            await instance.machines.restart("box", wait_booted=False, report=silent)
    await die_and_recover(instance)
    runtime = instance.machines.find("box").runtime
    assert (runtime.last_stop_reason, runtime.last_error) == ("by `vm restart`", "`vm restart` has stopped it, and did not come to start it again")
    assert (await instance.machines.start("box", wait_booted=False, report=silent)).runtime.last_error == ""


async def test_a_machine_that_a_full_disk_has_paused_is_told_and_goes_on(instance: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("banger.vm.watch._RESUME_SECONDS", 0.2)
    monkeypatch.setattr("banger.vm.observe._ANSWER_SECONDS", 0.05)
    paused, tries = True, 0

    async def is_out_of_space(machine: FakeMachine) -> bool:
        return paused

    async def go_on(machine: FakeMachine) -> None:
        nonlocal tries
        tries += 1

    monkeypatch.setattr(FakeMachine, "is_out_of_space", is_out_of_space, raising=False)
    monkeypatch.setattr(FakeMachine, "go_on", go_on, raising=False)
    await instance.create()
    instance.world.faults.deaf = True
    with pytest.raises(GuestTimeout, match="box is paused: the disk of this host is full"):
        await instance.machines.health("box")
    await eventually(lambda: tries > 1, "it is tried again and again")
    paused = False
    with pytest.raises(GuestTimeout, match="did not answer"):
        await instance.machines.health("box")
