"""Too long for every run: boots without a hang (architecture: one in eight hung before the TSC argument was found)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest

from tests import oracle
from tests.e2e.conftest import on_disk
from tests.e2e.instance import IMAGE, Instance, wait_until

BOOTS = int(os.environ.get("BANGER_SOAK_BOOTS", "200"))


@pytest.fixture(scope="module")
def instance() -> Iterator[Instance]:
    place = on_disk("banger-soak-")
    instance = Instance(place / "home")
    try:
        instance.ok("image", "pull", IMAGE, timeout=600)
        yield instance
    finally:
        instance.delete_everything()
        shutil.rmtree(place)


@pytest.mark.timeout(BOOTS * 30 + 600)
def test_boots_without_a_hang(instance: Instance) -> None:
    """Two at a time, so that the host's scheduling disturbs the guest as it does in real use."""
    failures = []
    for number in range(0, BOOTS, 2):
        with (
            instance.started("vm", "run", "--rm", "--", "echo", "up") as one,
            instance.started("vm", "run", "--rm", "--", "echo", "up") as two,
        ):
            for process in (one, two):
                out, err = process.communicate(timeout=120)
                if (process.returncode, out) != (0, b"up\n"):
                    failures.append(f"boot {number}: status {process.returncode}: {err.decode(errors='replace')}")
    assert not failures
    wait_until(lambda: not oracle.leftovers(instance), "nothing is left", 30)


REWRITE = """
    (while :; do :; done) & busy=$!
    for round in $(seq 1500); do echo 1 > /proc/sys/kernel/sched_schedstats; echo 0 > /proc/sys/kernel/sched_schedstats; done
    kill $busy
"""


@pytest.mark.timeout(300)
def test_a_kernel_that_rewrites_itself_goes_on(instance: Instance) -> None:
    """Each switch patches the scheduler's code while the other CPU runs it: parallel emulation in QEMU 7.2 hung within 60 s, three times of three."""
    instance.ok("vm", "run", "--rm", "--vcpu", "2", "--", "sh", "-c", REWRITE, timeout=280)


@pytest.mark.timeout(1200)
def test_daemon_does_not_grow(instance: Instance) -> None:
    """Descriptors and memory of the daemon before and after a hundred commands."""
    instance.ok("vm", "run", "-d", "--name", "worker")
    instance.kept.add(instance.json("vm", "show", "worker")["record"]["id"])
    try:
        for _ in range(20):
            instance.ok("vm", "exec", "worker", "--", "true")
        before = usage(instance)
        for _ in range(100):
            instance.ok("vm", "exec", "worker", "--", "true")
        after = usage(instance)
    finally:
        instance.ok("vm", "delete", "worker")
    assert after[0] <= before[0]
    assert after[1] - before[1] < 4096


def usage(instance: Instance) -> tuple[int, int]:
    """Open descriptors and resident memory (KiB) of the daemon."""
    pid = instance.daemon_pid()
    with open(f"/proc/{pid}/status") as file:
        resident = next(int(line.split()[1]) for line in file if line.startswith("VmRSS"))
    return len(os.listdir(f"/proc/{pid}/fd")), resident
