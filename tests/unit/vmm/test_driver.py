"""The driver with real QEMU processes and a kernel of a few bytes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from banger.host import process
from banger.host.files import make_sparse
from banger.host.paths import VMLayout
from banger.host.run import spawn
from banger.model.errors import MissingTool, VmmError
from banger.model.machine import Disk, MachineConfig, NetworkCard
from banger.model.names import new_id
from banger.model.records import ProcessIdentity
from banger.vmm import launcher
from banger.vmm.protocol import BoundsLogs, Inspects, ListsMachines, PausesOnFullDisk, ShowsProcessors, SwitchesLink, Vmm
from banger.vmm.qemu import driver
from banger.vmm.qemu.driver import QemuMachine, QemuVmm
from tests.unit.vmm.kernels import SAYS, tiny_kernel

pytestmark = pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="needs qemu-system-x86")
ROOT = os.geteuid() == 0


@pytest.fixture
def vmm(tmp_path: Path) -> QemuVmm:
    # The tiny kernel never says that it lives, so KVM would only be given up after its deadline; that is test_probe's subject.
    return QemuVmm(tmp_path / "cache", kvm_device=tmp_path / "no-kvm")


@pytest.fixture
async def config(tmp_path: Path) -> AsyncIterator[MachineConfig]:
    vm_id = new_id()
    vm_dir = tmp_path / "vms" / vm_id
    vm_dir.mkdir(parents=True, mode=0o700)
    (tmp_path / "vms").chmod(0o700)
    kernel = tiny_kernel(tmp_path / "vms" / "vmlinux")
    initramfs = tmp_path / "vms" / "initramfs"
    initramfs.write_bytes(b"070701")
    base = tmp_path / "vms" / "base"
    make_sparse(base, 1 << 20, mode=0o644)
    make_sparse(VMLayout(vm_dir).overlay_disk, 1 << 20)
    disks = (Disk(serial="base", path=base, read_only=True), Disk(serial="overlay", path=VMLayout(vm_dir).overlay_disk, read_only=False))
    yield MachineConfig(vm_id=vm_id, vm_dir=vm_dir, vcpu_count=1, memory_mib=64, kernel=kernel, initramfs=initramfs, disks=disks, card=None, uid=-1)
    for pid, words in process.command_lines():
        if f"banger-{vm_id}".encode() in words:
            await process.end(process.identify(pid))


async def console_says(machine: QemuMachine, text: bytes) -> None:
    log = VMLayout(machine.vm_dir).console_log
    async with asyncio.timeout(20):
        while text not in log.read_bytes():
            assert process.is_alive(machine.process), VMLayout(machine.vm_dir).vmm_log.read_text()
            await asyncio.sleep(0.01)


def test_it_is_a_driver_with_the_optional_abilities(vmm: QemuVmm) -> None:
    driver_: Vmm = vmm
    assert isinstance(driver_, BoundsLogs)
    assert isinstance(driver_, Inspects)
    assert isinstance(driver_, ListsMachines)


async def test_a_machine_s_whole_life(vmm: QemuVmm, config: MachineConfig) -> None:
    machine = await vmm.launch(config)
    assert os.getsid(machine.process.pid) == machine.process.pid
    agent = await machine.connect_agent()
    assert not agent.getblocking()
    await console_says(machine, SAYS)

    control = await machine.connect_control()
    assert (await control.execute("query-status"))["running"] is True
    blocks = {block["inserted"]["node-name"]: block["inserted"]["ro"] for block in await control.execute("query-block")}
    assert blocks == {"base": True, "overlay": False}
    assert len(await control.execute("query-cpus-fast")) == 1
    await control.close()

    assert await vmm.adopt(config.vm_id, config.vm_dir) == machine
    assert await vmm.adopt(new_id(), config.vm_dir) is None
    agent.close()
    again = await machine.connect_agent()

    await machine.end()
    await machine.end()
    assert not process.is_alive(machine.process)
    with again, contextlib.suppress(ConnectionResetError):  # which is how it ends when QEMU had not accepted it yet
        assert again.recv(1) == b""
    assert await vmm.adopt(config.vm_id, config.vm_dir) is None
    with pytest.raises(VmmError):
        await machine.connect_agent()
    vmm.remove_sockets(config.vm_dir)
    vmm.remove_sockets(config.vm_dir)
    assert sorted(path.name for path in config.vm_dir.iterdir()) == ["console.log", "system.overlay", "vmm.log"]


async def test_logs_begin_anew_with_each_start_and_stay_bounded(vmm: QemuVmm, config: MachineConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    files = VMLayout(config.vm_dir)
    files.console_log.write_bytes(b"of an earlier life")
    machine = await vmm.launch(config)
    await console_says(machine, SAYS)
    assert b"earlier" not in files.console_log.read_bytes()
    vmm.bound_logs(config.vm_dir)
    assert SAYS in files.console_log.read_bytes()
    monkeypatch.setattr(driver, "CONSOLE_LIMIT", 3)
    vmm.bound_logs(config.vm_dir)
    assert files.console_log.read_bytes() == b""
    await machine.end()


async def test_two_machines_never_write_one_disk(vmm: QemuVmm, config: MachineConfig, tmp_path: Path) -> None:
    first = await vmm.launch(config)
    await console_says(first, SAYS)
    other_dir = tmp_path / "vms" / "other"
    other_dir.mkdir()
    second = await vmm.launch(replace(config, vm_dir=other_dir))
    async with asyncio.timeout(20):
        await process.wait_exit(second.process)
    assert "lock" in VMLayout(other_dir).vmm_log.read_text()
    assert process.is_alive(first.process)
    await first.end()


async def test_a_machine_can_start_again_the_moment_it_has_ended(vmm: QemuVmm, config: MachineConfig) -> None:
    for _ in range(4):
        machine = await vmm.launch(config)
        await console_says(machine, SAYS)
        await machine.end()


async def test_a_missing_disk_is_an_error_that_leaves_nothing(vmm: QemuVmm, config: MachineConfig) -> None:
    VMLayout(config.vm_dir).overlay_disk.unlink()
    before = os.listdir("/proc/self/fd")
    with pytest.raises(VmmError, match="cannot start QEMU"):
        await vmm.launch(config)
    assert not VMLayout(config.vm_dir).agent_socket.exists()
    assert not VMLayout(config.vm_dir).control_socket.exists()
    assert len(os.listdir("/proc/self/fd")) == len(before)


async def test_what_qemu_refuses_is_in_the_vmm_log(vmm: QemuVmm, config: MachineConfig) -> None:
    config.kernel.write_bytes(b"not a kernel")
    machine = await vmm.launch(config)
    async with asyncio.timeout(20):
        await process.wait_exit(machine.process)
    assert "qemu" in VMLayout(config.vm_dir).vmm_log.read_text()


async def test_without_qemu(vmm: QemuVmm, config: MachineConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "BINARY", "qemu-that-is-not-there")
    with pytest.raises(MissingTool, match="not installed"):
        await vmm.launch(config)
    for probe in (await vmm.probe(config.kernel, config.initramfs), await vmm.inspect()):
        assert not probe.usable
        assert "not installed" in probe.note
        assert probe.hint


async def test_the_probe_names_binary_and_version(vmm: QemuVmm, config: MachineConfig) -> None:
    probe = await vmm.probe(config.kernel, config.initramfs)
    assert probe.usable
    assert Path(probe.binary).name == "qemu-system-x86_64"
    assert probe.version[0].isdigit()
    assert probe.accelerator == "tcg"
    assert (await vmm.inspect()).version == probe.version


async def test_a_process_that_merely_bears_the_name_is_not_adopted(vmm: QemuVmm, config: MachineConfig) -> None:
    impostor = await asyncio.create_subprocess_exec("sleep", "30", env={})
    named = await asyncio.create_subprocess_exec("sh", "-c", "sleep 30", f"banger-{config.vm_id}", env={"PATH": "/bin:/usr/bin"}, start_new_session=True)
    try:
        assert await vmm.adopt(config.vm_id, config.vm_dir) is None
    finally:
        for child in (impostor, named):
            child.kill()
            await child.wait()


@pytest.mark.root
@pytest.mark.skipif(not ROOT, reason="another uid")
async def test_the_vmm_runs_unprivileged_although_no_directory_lets_it_in(vmm: QemuVmm, config: MachineConfig) -> None:
    os.chown(VMLayout(config.vm_dir).overlay_disk, 54321, 54321)
    machine = await vmm.launch(replace(config, uid=54321))
    await console_says(machine, SAYS)
    assert process.owner_of(machine.process.pid) == 54321
    status = Path(f"/proc/{machine.process.pid}/status").read_text()
    assert "Groups:\t \n" in status
    assert "CapEff:\t0000000000000000" in status
    assert "Seccomp:\t2" in status
    assert await vmm.adopt(config.vm_id, config.vm_dir) == machine
    elsewhere = config.vm_dir.with_name("other")
    assert await vmm.adopt(config.vm_id, elsewhere) is None, "another instance's machine of another uid"
    VMLayout(config.vm_dir).overlay_disk.unlink()
    assert await vmm.adopt(config.vm_id, config.vm_dir) == machine, "what it has open tells whose it is"
    await machine.end()


async def test_all_machines_are_found_with_one_look(vmm: QemuVmm, config: MachineConfig) -> None:
    machine, vms = await vmm.launch(config), config.vm_dir.parent
    for known in (set[str](), {config.vm_id}):
        assert await vmm.list_machines(vms, known) == {config.vm_id: machine}
    shutil.rmtree(config.vm_dir)
    for known in (set[str](), {config.vm_id}):
        assert await vmm.list_machines(vms, known) == {config.vm_id: machine}, "its open files tell, although they are removed"
    assert await vmm.list_machines(vms.with_name("vm"), ()) == {}, "an instance beside it, whose name is a prefix"
    await machine.end()
    assert await vmm.list_machines(vms, {config.vm_id}) == {}


async def test_what_a_cancelled_launch_has_started_is_found_at_once(vmm: QemuVmm, config: MachineConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    await vmm.probe(config.kernel, config.initramfs)
    begun, real = asyncio.Event(), spawn
    loop = asyncio.get_running_loop()
    started: list[ProcessIdentity] = []

    def slow(*words: Any, **keywords: Any) -> ProcessIdentity:
        loop.call_soon_threadsafe(begun.set)
        time.sleep(0.1)
        started.append(real(*words, **keywords))
        return started[0]

    monkeypatch.setattr("banger.vmm.launcher.spawn", slow)
    launching = asyncio.create_task(vmm.launch(config))
    await begun.wait()
    launching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await launching
    assert await vmm.adopt(config.vm_id, config.vm_dir) == QemuMachine(started[0], config.vm_dir, launcher.DirectLauncher())


async def test_the_card_of_a_running_machine_is_switched(vmm: QemuVmm, config: MachineConfig) -> None:
    card = NetworkCard(mac="52:54:00:00:00:01", address="10.0.2.15", prefix=24, gateway="10.0.2.2", nameservers=(), socket=None)
    machine = await vmm.launch(replace(config, card=card))
    assert isinstance(machine, SwitchesLink)
    for up in (False, False, True, True):
        await machine.switch_link(up=up)
    adopted = await vmm.adopt(config.vm_id, config.vm_dir)
    assert adopted is not None
    await adopted.switch_link(up=False)
    await machine.end()
    with pytest.raises(VmmError):
        await machine.switch_link(up=True)


async def test_a_machine_that_is_not_short_of_space_goes_on(vmm: QemuVmm, config: MachineConfig) -> None:
    machine = await vmm.launch(config)
    assert isinstance(machine, PausesOnFullDisk)
    assert not await machine.is_out_of_space()
    await machine.go_on()
    await machine.end()
    with pytest.raises(VmmError):
        await machine.is_out_of_space()


async def test_a_machine_without_a_card_has_nothing_to_switch(vmm: QemuVmm, config: MachineConfig) -> None:
    machine = await vmm.launch(config)
    with pytest.raises(VmmError, match="refused"):
        await machine.switch_link(up=False)
    await machine.end()


async def test_where_the_cpus_of_a_guest_are(vmm: QemuVmm, config: MachineConfig) -> None:
    machine = await vmm.launch(replace(config, vcpu_count=2))
    assert isinstance(machine, ShowsProcessors)
    await console_says(machine, SAYS)
    async with asyncio.timeout(20):  # the tiny kernel, at 1 MiB, halts right after its words, and the second CPU waits to be woken
        while not re.fullmatch(r"0 halted at 0*1000[0-9a-f]{2}, 1 halted at [0-9a-f]+", await machine.processors()):
            await asyncio.sleep(0.01)
    await machine.end()
    with pytest.raises(VmmError):
        await machine.processors()
