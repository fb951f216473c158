"""VMM verbs on this host, with real cgroups and a program that sleeps in place of QEMU."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import stat
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from banger.helper.protocol import Launch
from banger.helper.vmms.host import HostVmms, send_to_member
from banger.helper.vmms.programs import trusted_program
from banger.host import process
from banger.host.cgroups.hierarchies import find_hierarchies, read_members
from banger.host.cgroups.raw import RawGroups
from banger.host.run import find_tool, spawn
from banger.model.errors import BadRequest, MissingTool, VmmError
from banger.model.limits import FIRST_VMM_UID
from banger.model.machine import Limits
from banger.model.names import new_id
from banger.model.records import ProcessIdentity
from tests.unit.helper.vmms.test_arguments import VM_ID, arguments

pytestmark = pytest.mark.skipif(os.geteuid() != 0 or not any(one.free for one in find_hierarchies()), reason="needs root and cgroups that are left to us")
LIMITS = Limits(cpu_quota=0.5, pids_max=20, io_weight=100)


@pytest.fixture
def groups() -> Iterator[RawGroups]:
    made = RawGroups(f"t{os.urandom(4).hex()}")
    yield made
    for vm_id in made.machines():
        for pid in made.members(vm_id):
            process.send_signal(process.identify(pid), signal.SIGKILL)
        asyncio.run(made.remove(vm_id))


@pytest.fixture
def program() -> Iterator[Path]:
    """Sleeps, whatever its arguments are; lies where another uid can execute it."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        Path(folder).chmod(0o755)
        path = Path(folder, "sleeper")
        path.write_text("#!/bin/sh\necho started as $(id -u):$(id -g) $(id -G)\nexec sleep 1000\n")
        path.chmod(0o755)
        yield path


@pytest.fixture
async def vmms(groups: RawGroups, program: Path) -> AsyncIterator[HostVmms]:
    yield HostVmms(groups, for_another=True, find=lambda _: program)
    for vm_id in groups.machines():
        await end(groups, vm_id)


async def end(groups: RawGroups, vm_id: str) -> None:
    for pid in groups.members(vm_id):
        await process.end(process.identify(pid))


@pytest.fixture
def log(tmp_path: Path) -> Iterator[int]:
    with (tmp_path / "log").open("wb", buffering=0) as file:
        yield file.fileno()


@pytest.fixture
def fds(log: int) -> Iterator[list[int]]:
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    yield [null] * 9 + [log]
    os.close(null)


def launch(vm_id: str = VM_ID, uid: int = FIRST_VMM_UID + 7) -> Launch:
    words = tuple(word.replace(VM_ID, vm_id) for word in arguments())
    return Launch(vm_id=vm_id, program="qemu", arguments=words, uid=uid, limits=LIMITS, kvm=False)


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


async def started(path: Path) -> str:
    async with asyncio.timeout(10):
        while not (said := path.read_text()):
            await asyncio.sleep(0.01)
    return said


async def test_a_vmm_s_whole_life(vmms: HostVmms, groups: RawGroups, fds: list[int], tmp_path: Path) -> None:
    vmm = await vmms.launch_vmm(launch(), fds)
    assert await started(tmp_path / "log") == f"started as {FIRST_VMM_UID + 7}:{FIRST_VMM_UID + 7} {FIRST_VMM_UID + 7}\n"
    status = status_of(vmm.pid)
    assert {status[f"Cap{kind}"] for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}
    assert status["NoNewPrivs"] == "1"
    assert os.getsid(vmm.pid) == vmm.pid
    assert await vmms.list_vmms() == {VM_ID: vmm}
    assert groups.members(VM_ID) == {vmm.pid}

    usage = groups.usage(VM_ID)
    assert usage is not None
    assert usage.oom_kills in (None, 0)
    with pytest.raises(VmmError, match="processes"):
        await vmms.release_vmm(VM_ID)
    assert await vmms.signal_vmm(VM_ID, vmm, "TERM")
    await process.wait_exit(vmm)
    assert not await vmms.signal_vmm(VM_ID, vmm, "KILL")
    assert await vmms.list_vmms() == {}
    await vmms.release_vmm(VM_ID)
    await vmms.release_vmm(VM_ID)
    assert groups.machines() == frozenset()


async def test_it_is_inside_before_it_runs(vmms: HostVmms, groups: RawGroups, fds: list[int], program: Path, tmp_path: Path) -> None:
    program.write_text("#!/bin/sh\ncat /proc/self/cgroup\nexec sleep 1000\n")
    await vmms.launch_vmm(launch(), fds)
    said = await started(tmp_path / "log")
    ours = [line.split(":")[2] for line in said.splitlines() if VM_ID in line]
    assert len(ours) == len([one for one in find_hierarchies() if one.free and groups.enforced() & one.controllers])
    assert {Path(path).name for path in ours} == {VM_ID}


async def test_the_daemon_itself_stays_where_it_was(vmms: HostVmms, fds: list[int]) -> None:
    before = Path("/proc/self/cgroup").read_text()
    await vmms.launch_vmm(launch(), fds)
    assert Path("/proc/self/cgroup").read_text() == before
    assert {task.read_text() for task in Path("/proc/self/task").glob("*/cgroup")} == {before}


async def test_whoever_starts_one_is_never_taken_for_it(vmms: HostVmms, groups: RawGroups, fds: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread of ours is in the group while the process is started, and the kernel shows that as our pid."""
    seen: list[frozenset[int]] = []

    def look(argv: list[str], **keywords: Any) -> ProcessIdentity:
        vmm = spawn(argv, **keywords)
        seen.append(groups.members(VM_ID))
        return vmm

    monkeypatch.setattr("banger.helper.vmms.host.spawn", look)
    vmm = await vmms.launch_vmm(launch(), fds)
    assert vmm.pid in seen[0]
    assert os.getpid() not in seen[0]
    listed = {pid for one in groups._hierarchies for pid in read_members(groups._home(one) / VM_ID)}
    assert vmm.pid in listed
    assert os.getpid() not in listed


async def test_what_cannot_be_started_leaves_nothing(groups: RawGroups, fds: list[int], tmp_path: Path) -> None:
    vmms = HostVmms(groups, for_another=True, find=lambda _: tmp_path / "absent")
    vmm = await vmms.launch_vmm(launch(), fds)  # which setpriv finds out
    await process.wait_exit(vmm)
    await vmms.release_vmm(VM_ID)
    missing = HostVmms(groups, for_another=True, find=lambda word: find_tool(f"no-{word}"))
    with pytest.raises(MissingTool):
        await missing.launch_vmm(launch(), fds)
    assert groups.machines() == frozenset()


async def test_a_spawn_that_fails_leaves_no_group(groups: RawGroups) -> None:
    def fail(_wrapper: tuple[str, ...], _fds: tuple[int, ...]) -> ProcessIdentity:
        raise FileNotFoundError("no such program")

    with pytest.raises(VmmError, match="no such program"):
        await groups.start(VM_ID, LIMITS, fail)
    assert groups.machines() == frozenset()


async def test_a_launch_that_is_cancelled_leaves_neither_process_nor_group(groups: RawGroups, log: int) -> None:
    loop, begun, made = asyncio.get_running_loop(), asyncio.Event(), []

    def slow(wrapper: tuple[str, ...], fds: tuple[int, ...]) -> ProcessIdentity:
        made.append(spawn([*wrapper, "sleep", "1000"], output=log, pass_fds=fds))
        loop.call_soon_threadsafe(begun.set)
        return made[0]

    starting = asyncio.create_task(groups.start(VM_ID, LIMITS, slow))
    await begun.wait()
    starting.cancel()
    try:
        await starting
    except asyncio.CancelledError:
        assert groups.machines() == frozenset()
        assert not process.is_alive(made[0])
    else:
        await process.end(made[0])


@pytest.mark.parametrize(
    "change",
    [
        {"uid": 0},
        {"uid": -1},
        {"uid": 1000},
        {"uid": FIRST_VMM_UID - 1},
        {"vm_id": "../../../etc"},
        {"vm_id": new_id()},
        {"program": "sh"},
        {"program": "/bin/sh"},
        {"arguments": ("-c", "id")},
        {"limits": Limits(cpu_quota=float("nan"))},
        {"limits": Limits(cpu_quota=-1)},
        {"limits": Limits(memory_max_bytes=-1)},
        {"limits": Limits(pids_max=1 << 40)},
    ],
    ids=str,
)
async def test_what_is_no_vmm_of_ours_is_not_started(groups: RawGroups, fds: list[int], change: dict[str, object]) -> None:
    vmms = HostVmms(groups, for_another=True)
    with pytest.raises(BadRequest):
        await vmms.launch_vmm(replace(launch(), **change), fds)  # type: ignore[arg-type]
    assert groups.machines() == frozenset()


async def test_descriptors_are_counted(vmms: HostVmms, fds: list[int]) -> None:
    for given in ([], fds[:3], fds * 10):
        with pytest.raises(BadRequest):
            await vmms.launch_vmm(launch(), given)


async def test_one_machine_has_one_vmm_and_one_uid_one_machine(vmms: HostVmms, groups: RawGroups, fds: list[int]) -> None:
    other = new_id()
    results = await asyncio.gather(vmms.launch_vmm(launch(), fds), vmms.launch_vmm(launch(), fds), vmms.launch_vmm(launch(other), fds), return_exceptions=True)
    assert [type(result) for result in results] == [ProcessIdentity, VmmError, BadRequest]
    with pytest.raises(VmmError, match="runs already"):
        await vmms.launch_vmm(launch(), fds)
    with pytest.raises(BadRequest, match="another machine's VMM"):
        await vmms.launch_vmm(launch(other), fds)
    assert groups.machines() == {VM_ID}


async def test_only_the_machine_s_own_process_is_signalled(vmms: HostVmms, fds: list[int]) -> None:
    other = new_id()
    first, second = await vmms.launch_vmm(launch(), fds), await vmms.launch_vmm(launch(other, FIRST_VMM_UID + 8), fds)
    with subprocess.Popen(["sleep", "1000"]) as stranger:
        try:
            for target in (process.identify(stranger.pid), process.identify(1), process.identify(os.getpid()), second):
                with pytest.raises(BadRequest, match="not the machine's VMM"):
                    await vmms.signal_vmm(VM_ID, target, "KILL")
            with pytest.raises(BadRequest, match="not the machine's VMM"):
                await vmms.signal_vmm(new_id(), first, "KILL")
            assert stranger.poll() is None
        finally:
            stranger.kill()
    assert process.is_alive(first)
    assert process.is_alive(second)


async def test_a_pid_that_was_used_again_is_not_signalled(vmms: HostVmms, fds: list[int]) -> None:
    vmm = await vmms.launch_vmm(launch(), fds)
    assert not await vmms.signal_vmm(VM_ID, replace(vmm, start_time=vmm.start_time - 1), "KILL")
    assert not await vmms.signal_vmm(VM_ID, ProcessIdentity(pid=1 << 22, start_time=1), "KILL")
    assert process.is_alive(vmm)


async def test_a_process_that_ends_while_it_is_looked_at_is_gone() -> None:
    with subprocess.Popen(["sleep", "1000"]) as child:
        target = process.identify(child.pid)

        def members() -> frozenset[int]:
            child.kill()
            child.wait()
            return frozenset({child.pid})

        assert not send_to_member(target, signal.SIGKILL, members)


@pytest.mark.parametrize("word", ["STOP", "CONT", "9", "SIGKILL", "kill", "", "RTMIN"])
async def test_other_signals_are_refused(vmms: HostVmms, word: str) -> None:
    with pytest.raises(BadRequest):
        await vmms.signal_vmm(VM_ID, process.identify(os.getpid()), word)


async def test_limits_change_while_it_runs(vmms: HostVmms, groups: RawGroups, fds: list[int], program: Path) -> None:
    """A quota makes it wait, which the kernel counts; without one it is not counted any further."""
    if "cpu" not in groups.enforced():
        pytest.fail("this machine's cpu hierarchy is not left to us")
    program.write_text("#!/bin/sh\nwhile :; do :; done\n")
    await vmms.launch_vmm(replace(launch(), limits=replace(LIMITS, cpu_quota=0.1)), fds)
    async with asyncio.timeout(20):
        while not ((usage := groups.usage(VM_ID)) and usage.cpu_throttled_seconds):
            await asyncio.sleep(0.05)
    assert usage.cpu_throttled_periods
    await vmms.limit_vmm(VM_ID, replace(LIMITS, cpu_quota=0.0))
    folder = next(groups._home(one) / VM_ID for one in find_hierarchies() if "cpu" in one.controllers)
    quota = next(folder / name for name in ("cpu.cfs_quota_us", "cpu.max") if (folder / name).exists())
    assert quota.read_text().split()[0] in ("-1", "max")
    await end(groups, VM_ID)
    await vmms.release_vmm(VM_ID)
    with pytest.raises(VmmError):
        await vmms.limit_vmm(VM_ID, LIMITS)


def test_only_root_s_own_programs_are_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "qemu-system-x86_64"
    place.write_text("#!/bin/sh\n")
    place.chmod(0o755)
    monkeypatch.setattr("banger.helper.vmms.programs.SEARCH_PATH", str(tmp_path))
    with pytest.raises(BadRequest, match="by others than root"):  # for /tmp is everybody's
        trusted_program("qemu")
    monkeypatch.setattr("banger.helper.vmms.programs.SEARCH_PATH", str(tmp_path / "empty"))
    with pytest.raises(MissingTool):
        trusted_program("qemu")
    with pytest.raises(BadRequest):
        trusted_program("../../bin/sh")


@pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="needs qemu-system-x86")
def test_the_system_s_qemu_is_trusted() -> None:
    found = trusted_program("qemu")
    assert found.stat().st_uid == 0
    assert not found.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH)
