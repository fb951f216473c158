"""A machine in bounds of its own, run by a daemon that is root: what holds is read from the kernel and from QEMU, not from a clock."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from banger.host.cgroups.hierarchies import find_hierarchies
from banger.vmm.qemu.qmp import Qmp
from tests.e2e.instance import Instance, wait_until

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or Path("/run/systemd/system").exists() or not any(one.free and "cpu" in one.controllers for one in find_hierarchies()),
    reason="needs root and a cpu hierarchy of cgroups that is left to us",
)
NAME = "bounded"


@pytest.fixture(scope="module")
def vm_id(instance: Instance) -> Iterator[str]:
    instance.ok("vm", "run", "-d", "--name", NAME, "--cpu-quota", "1.5", "--disk-rate", "64M", "--disk-iops", "9000")
    made: str = instance.json("vm", "show", NAME)["record"]["id"]
    instance.kept.add(made)
    yield made
    instance.kept.discard(made)
    if any(row["id"] == made for row in instance.rows("vms")):
        instance.ok("vm", "delete", NAME)


def groups(vm_id: str) -> list[Path]:
    return [path for one in find_hierarchies() if one.free for path in one.mount.glob(f"banger/*/{vm_id}")]


def stats(instance: Instance) -> dict[str, Any]:
    found: dict[str, Any] = instance.json("vm", "stats", NAME)[0]["result"]
    return found


def pid_of(instance: Instance) -> int:
    return int(instance.json("vm", "show", NAME)["pid"])


def test_the_vmm_is_alone_in_its_group_and_without_privileges(instance: Instance, vm_id: str) -> None:
    pid = pid_of(instance)
    assert groups(vm_id)
    assert {path.joinpath("cgroup.procs").read_text().strip() for path in groups(vm_id)} == {str(pid)}
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)
    uid = instance.json("vm", "show", NAME)["record"]["runtime"]["vmm_uid"]
    assert status["Uid"].split() == [str(uid)] * 4
    assert {status[f"Cap{kind}"] for kind in ("Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


def test_a_quota_holds_and_changes_while_it_runs(instance: Instance, vm_id: str) -> None:
    instance.ok("vm", "set", NAME, "--cpu-quota", "30%")
    before = stats(instance)["bounds"]["cpu_throttled_periods"]
    instance.ok("vm", "exec", NAME, "--", "sh", "-c", "i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done")
    assert stats(instance)["bounds"]["cpu_throttled_periods"] > before
    assert "cpu 30%" in instance.ok("vm", "show", NAME)
    instance.ok("vm", "set", NAME, "--cpu-quota", "0")
    quotas = [path.joinpath(file).read_text() for path in groups(vm_id) for file in ("cpu.cfs_quota_us", "cpu.max") if (path / file).exists()]
    assert [words.split()[0] in ("-1", "max") for words in quotas] == [True]


def test_the_disks_are_slowed_down_by_qemu(instance: Instance, vm_id: str) -> None:
    socket = instance.state / "vms" / vm_id / "control.sock"

    async def ask() -> list[dict[str, Any]]:
        control = await Qmp.connect(socket)
        try:
            return list(await control.execute("query-named-block-nodes"))
        finally:
            await control.close()

    nodes = {node["node-name"]: node["drv"] for node in asyncio.run(ask())}
    assert {name for name, driver in nodes.items() if driver == "throttle"} == {"base-limited", "overlay-limited", "work-limited"}
    refused = instance.run("vm", "set", NAME, "--disk-rate", "1M")
    assert refused.status != 0
    assert "is running" in refused.err


def test_a_daemon_that_is_killed_finds_it_again_in_its_group(instance: Instance, vm_id: str) -> None:
    pid, daemon = pid_of(instance), instance.daemon_pid()
    assert daemon is not None
    os.kill(daemon, signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{daemon}").exists(), "the daemon is gone", 10)
    assert pid_of(instance) == pid
    instance.ok("vm", "set", NAME, "--cpu-quota", "2")
    assert instance.ok("vm", "exec", NAME, "--", "echo", "alive") == "alive\n"


def test_what_would_be_words_only_is_refused(instance: Instance) -> None:
    for words in (("--net-rate", "1M"), ("--cpu-quota", "1%"), ("--disk-rate", "1K")):
        refused = instance.run("vm", "create", "--no-start", "--name", "refused", *words)
        assert refused.status != 0, words
        assert words[0].removeprefix("--") in refused.err
    assert not any(row["name"] == "refused" for row in instance.rows("vms"))


def test_an_empty_group_without_a_machine_is_a_leftover(instance: Instance, vm_id: str) -> None:
    orphan = [path.with_name("0" * 32) for path in groups(vm_id)]
    for path in orphan:
        path.mkdir()
    found = [one for one in instance.json("gc", "--dry-run") if one["kind"] == "scope"]
    assert [one["vm_id"] for one in found] == ["0" * 32]
    instance.ok("gc")
    assert not any(path.exists() for path in orphan)
    assert groups(vm_id)


def test_nothing_is_left_of_it(instance: Instance, vm_id: str) -> None:
    instance.ok("vm", "kill", NAME, "--signal", "KILL")
    assert groups(vm_id) == []
    instance.ok("vm", "delete", NAME)
    assert groups(vm_id) == []
