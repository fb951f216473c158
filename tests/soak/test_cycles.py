"""Machines that come and go: nothing leaks, and the daemon does not grow."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from banger.api.image_types import PullImage
from tests.e2e.conftest import on_disk
from tests.e2e.instance import IMAGE
from tests.fakes.harness import FakeInstance, fake_instance

CYCLES = int(os.environ.get("BANGER_SOAK_CYCLES", "1000"))
REAL_CYCLES = int(os.environ.get("BANGER_SOAK_REAL_CYCLES", "30"))


def usage(instance: FakeInstance) -> tuple[int, int]:
    """Open descriptors and resident memory (KiB) of the daemon."""
    status = Path(f"/proc/{instance.pid}/status").read_text()
    return len(os.listdir(f"/proc/{instance.pid}/fd")), next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))


def cycle(instance: FakeInstance, count: int) -> None:
    for _ in range(count):
        instance.create()
        instance.operate("vm.delete")


def cycles_leave_nothing(instance: FakeInstance, warm_up: int, count: int) -> None:
    cycle(instance, warm_up)
    before = usage(instance)
    cycle(instance, count)
    after = usage(instance)
    assert instance.left() == []
    assert after[0] <= before[0] + 1  # a connection may just be closing
    assert after[1] < before[1] * 1.05, f"resident memory grew from {before[1]} to {after[1]} KiB"


@pytest.mark.timeout(1200)
def test_many_machines_without_a_machine(tmp_path: Path) -> None:
    with fake_instance(tmp_path / "home") as instance:
        # The table of events and SQLite's caches reach their size in the first cycles.
        cycles_leave_nothing(instance, warm_up=max(1000, CYCLES), count=CYCLES)


@pytest.mark.timeout(3600)
def test_some_real_machines() -> None:
    place = on_disk("banger-cycles-")
    try:
        with fake_instance(place / "home", FAKE_DRIVERS="none") as instance:
            with instance.client() as client:
                client.operation("image.pull", None, PullImage(reference=IMAGE))
            cycles_leave_nothing(instance, warm_up=5, count=REAL_CYCLES)
    finally:
        shutil.rmtree(place)
