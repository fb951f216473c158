"""Groups of machines: what is written where, in version 2 and 1, the gate, and what systemd is asked for. Real cgroups are in tests/unit/helper/vmms."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from banger.host import process
from banger.host.cgroups import scopes
from banger.host.cgroups.choice import instance_of
from banger.host.cgroups.controls import write_limits
from banger.host.cgroups.gate import Gate
from banger.host.cgroups.hierarchies import Hierarchy, find_hierarchies, read_usage
from banger.host.cgroups.protocol import check_instance, is_vm_id
from banger.host.cgroups.raw import RawGroups
from banger.host.cgroups.scopes import SystemdScopes
from banger.host.run import spawn
from banger.model.machine import GroupUsage, Limits
from banger.model.records import ProcessIdentity

VM_ID = "0123456789abcdef0123456789abcdef"
EVERY = frozenset({"cpu", "memory", "pids", "io"})
LIMITS = Limits(cpu_quota=1.5, memory_max_bytes=1 << 30, pids_max=99, io_weight=50)

MOUNTS_1 = """\
31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
32 31 0:29 / {root}/cpu,cpuacct rw,relatime shared:4 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / {root}/memory rw,relatime - cgroup cgroup rw,memory
39 31 0:36 / {root}/pids rw,relatime - cgroup cgroup rw,pids
40 31 0:37 / {root}/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / {root}/unified rw,relatime - cgroup2 cgroup2 rw
"""


def proc(folder: Path, mounts: str, groups: str) -> Path:
    (folder / "mountinfo").write_text(mounts.format(root=folder))
    (folder / "cgroup").write_text(groups)
    return folder


def test_version_1_beside_a_version_2_that_has_nothing(tmp_path: Path) -> None:
    found = find_hierarchies(proc(tmp_path, MOUNTS_1, "9:name=systemd:/x\n4:memory:/docker/1\n2:cpu,cpuacct:/\n1:pids:/\n0::/\n"))
    assert found == (
        Hierarchy(mount=tmp_path / "cpu,cpuacct", controllers=frozenset({"cpu"}), unified=False, free=True),
        Hierarchy(mount=tmp_path / "memory", controllers=frozenset({"memory"}), unified=False, free=False),
        Hierarchy(mount=tmp_path / "pids", controllers=frozenset({"pids"}), unified=False, free=True),
    )


@pytest.mark.parametrize(("own", "free"), [("/", True), ("/system.slice/x.service", False)])
def test_version_2(tmp_path: Path, own: str, free: bool) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu io memory hugetlb pids\n")
    found = find_hierarchies(proc(tmp_path, "41 31 0:38 / {root} rw,relatime - cgroup2 cgroup2 rw,nsdelegate\n", f"0::{own}\n"))
    assert found == (Hierarchy(mount=tmp_path, controllers=EVERY, unified=True, free=free),)


def test_what_is_somebody_else_s_is_left_alone(tmp_path: Path) -> None:
    theirs = Hierarchy(mount=tmp_path, controllers=EVERY, unified=False, free=False)
    assert RawGroups("x", [theirs]).enforced() == frozenset()
    assert not (tmp_path / "banger").exists()


@pytest.mark.parametrize(
    ("unified", "files"),
    [
        (
            True,
            {
                "cpu.max": "150000 100000",
                "memory.max": "1073741824",
                "memory.swap.max": "0",
                "memory.oom.group": "1",
                "pids.max": "99",
                "io.weight": "default 50",
            },
        ),
        (
            False,
            {
                "cpu.cfs_quota_us": "150000",
                "memory.limit_in_bytes": "1073741824",
                "memory.memsw.limit_in_bytes": "1073741824",
                "pids.max": "99",
                "blkio.weight": "250",
            },
        ),
    ],
)
def test_limits_become_files(tmp_path: Path, unified: bool, files: dict[str, str]) -> None:
    (group := tmp_path / "group").mkdir()
    for name in files:
        (group / name).touch()
    hierarchy = Hierarchy(mount=tmp_path, controllers=EVERY, unified=unified, free=True)
    write_limits(group, LIMITS, hierarchy)
    assert {path.name: path.read_text() for path in group.iterdir()} == files
    write_limits(group, Limits(), hierarchy)
    assert {path.read_text() for path in group.iterdir()} <= {"max 100000", "max", "-1", "default 100", "500", "1"}


def test_usage_of_version_2(tmp_path: Path) -> None:
    (tmp_path / "cpu.stat").write_text("usage_usec 5\nnr_periods 7\nnr_throttled 3\nthrottled_usec 1500000\n")
    (tmp_path / "memory.current").write_text("4096\n")
    (tmp_path / "memory.max").write_text("8192\n")
    (tmp_path / "memory.events").write_text("low 0\nmax 2\noom 1\noom_kill 1\n")
    expected = GroupUsage(cpu_periods=7, cpu_throttled_periods=3, cpu_throttled_seconds=1.5, memory_bytes=4096, memory_max_bytes=8192, oom_kills=1)
    assert read_usage(tmp_path, unified=True) == expected


def test_usage_of_version_1(tmp_path: Path) -> None:
    (tmp_path / "memory.usage_in_bytes").write_text("4096\n")
    (tmp_path / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    (tmp_path / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n")
    assert read_usage(tmp_path, unified=False) == GroupUsage(memory_bytes=4096, oom_kills=2)
    assert read_usage(tmp_path / "gone", unified=False) == GroupUsage()


def test_names() -> None:
    assert is_vm_id(VM_ID)
    assert not any(map(is_vm_id, ("", "..", VM_ID[1:], VM_ID + "\n", VM_ID.upper())))
    assert check_instance(instance_of(Path("/var/lib/banger")))
    for word in ("", "../x", "a-b", "a.b", "a/b"):
        with pytest.raises(ValueError, match="no instance"):
            check_instance(word)


def gates_of(pid: int) -> list[Path]:
    """Descriptors of the gate that a process has; others come and go while it is being loaded."""
    found = []
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            found += [path] if "banger-gate" in str(path.readlink()) else []
    return found


@contextlib.asynccontextmanager
async def gated(gate: Gate, log: Path) -> AsyncIterator[ProcessIdentity]:
    child = await asyncio.to_thread(spawn, [*gate.wrapper, "sh", "-c", "echo through"], output=log, pass_fds=gate.descriptors)
    try:
        yield child
    finally:
        await process.end(child)


async def test_behind_a_gate_nothing_runs_until_it_opens(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with Gate() as gate:
        async with gated(gate, log) as child:
            async with asyncio.timeout(30):
                while len(gates_of(child.pid)) < 2:  # the one that it has inherited, and the one that it waits for
                    await asyncio.sleep(0.01)
            assert log.read_bytes() == b""
            gate.open()
            assert await process.wait_exit(child) == 0
    assert log.read_bytes() == b"through\n"


async def test_a_gate_whose_keeper_is_gone_stays_shut(tmp_path: Path) -> None:
    """The child has the locked description too, so what dies with us does not open it."""
    with contextlib.ExitStack() as keeper:
        gate = keeper.enter_context(Gate())
        async with gated(gate, tmp_path / "log") as child:
            keeper.close()
            with gates_of(child.pid)[0].open("rb") as again, pytest.raises(BlockingIOError):
                fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert (tmp_path / "log").read_bytes() == b""


class FakeSystemd:
    """Notes what it is asked for, and puts processes into directories that stand for groups."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.calls: list[list[str]] = []

    async def run(self, argv: list[Any], *, deadline: float) -> None:
        self.calls.append(words := list(map(str, argv)))
        if "StartTransientUnit" in words:
            scope = self.root / "banger.slice" / words[words.index("Slice") + 2] / words[words.index("ssa(sv)a(sa(sv))") + 1]
            scope.mkdir(parents=True)
            (scope / "cgroup.procs").write_text(words[words.index("au") + 2] + "\n")


async def test_a_scope_is_asked_for_with_all_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpu io memory pids\n")
    hierarchy = Hierarchy(mount=tmp_path, controllers=EVERY, unified=True, free=False)
    systemd = FakeSystemd(tmp_path)
    monkeypatch.setattr(scopes, "run", systemd.run)
    monkeypatch.setattr(scopes, "find_hierarchies", lambda: (hierarchy,))
    groups = SystemdScopes("system")
    vmm = await groups.start(VM_ID, LIMITS, lambda words, fds: spawn([*words, "sleep", "1000"], output=tmp_path / "log", pass_fds=fds))
    try:
        said = " ".join(systemd.calls[0])
        assert re.match(r"busctl --system --quiet call org\.freedesktop\.systemd1 \S+ \S+ StartTransientUnit ssa\(sv\)a\(sa\(sv\)\) ", said)
        for wanted in ("CPUQuotaPerSecUSec t 1500000", "MemoryMax t 1073741824", "MemorySwapMax t 0", "TasksMax t 99", "IOWeight t 50", f"PIDs au 1 {vmm.pid}"):
            assert wanted in said
        assert f"banger-{VM_ID}.scope fail 9 " in said
        assert "Slice s banger-system.slice" in said
        assert said.endswith(" 0")
        assert groups.members(VM_ID) == {vmm.pid}
        assert groups.machines() == {VM_ID}
        await groups.limit(VM_ID, Limits())
        assert systemd.calls[1][9:12] == [f"banger-{VM_ID}.scope", "true", "5"]
    finally:
        await process.end(vmm)


async def test_what_systemd_refuses_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from banger.model.errors import CommandFailed

    async def refuse(*_: Any, **__: Any) -> None:
        raise CommandFailed("busctl failed")

    monkeypatch.setattr(scopes, "run", refuse)
    started: list[ProcessIdentity] = []

    def start(words: tuple[str, ...], fds: tuple[int, ...]) -> ProcessIdentity:
        started.append(spawn([*words, "sleep", "1000"], output=tmp_path / "log", pass_fds=fds))
        return started[0]

    with pytest.raises(CommandFailed):
        await SystemdScopes("system").start(VM_ID, LIMITS, start)
    assert not process.is_alive(started[0])
