"""A sample of the kill matrix for every verb: the daemon is killed, or a step fails, and the host is held against what the rows promise.

The whole matrix is in tests/soak.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.harness import FakeInstance, fake_instance
from tests.fakes.matrix import VERBS, double_plans, interrupt, points_of, single_plans

SINGLE = 7
DOUBLE = 2


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeInstance]:
    with fake_instance(tmp_path_factory.mktemp("matrix") / "home") as instance:
        yield instance


@pytest.fixture(scope="module")
def bridged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeInstance]:
    with fake_instance(tmp_path_factory.mktemp("bridged") / "home", FAKE_NETWORK="bridge") as instance:
        yield instance


def spread(plans: list[list[str]], count: int) -> list[list[str]]:
    """``count`` of the plans, evenly spread, the first and the last among them."""
    if len(plans) <= count:
        return plans
    return [plans[round(index * (len(plans) - 1) / (count - 1))] for index in range(count)]


@pytest.mark.parametrize("name", VERBS)
def test_whatever_interrupts_a_verb_rows_and_host_agree_afterwards(instance: FakeInstance, name: str) -> None:
    verb = VERBS[name]
    points = points_of(instance, verb)
    assert len(points) > 4
    plans = spread(single_plans(points), SINGLE) + spread(double_plans(instance, verb, points), DOUBLE)
    assert {", then ".join(plan): wrong for plan in plans if (wrong := interrupt(instance, verb, plan))} == {}


@pytest.mark.parametrize("name", [name for name in VERBS if name != "set"])
def test_on_a_bridge_taps_and_nat_agree_with_the_rows_too(bridged: FakeInstance, name: str) -> None:
    verb = VERBS[name]
    points = [point for point in points_of(bridged, verb) if any(word in point for word in ("network", "cleanup_runtime", "apply_change", "reserve"))]
    assert points
    # What fails while a tap is attached has the bridge looked after, and is tried again.
    plans = spread([plan for plan in single_plans(points) if plan != ["vm.start/network:inside raise"]], SINGLE)
    assert {", then ".join(plan): wrong for plan in plans if (wrong := interrupt(bridged, verb, plan))} == {}


def test_a_repaired_start_is_not_rolled_back_later(instance: FakeInstance) -> None:
    """An undo fails, so the journal keeps the operation; the machine is then started with success, and must survive the next daemon."""
    instance.create(start=False)
    instance.plan.write(["vm.start/configure_guest:before raise", "vm.start/network:undo raise"])
    with pytest.raises(Exception, match="injected"):
        instance.operate("vm.start")
    assert instance.state() == "error"
    assert [row["kind"] for row in instance.host.rows("journal")] == ["vm.start"]
    instance.operate("vm.start")
    instance.end()
    instance.start()
    assert instance.state() == "running"
    assert instance.wrong() == []
    instance.delete_all()


def test_the_oracle_sees_what_is_there(instance: FakeInstance, tmp_path: Path) -> None:
    """An oracle that finds nothing proves nothing."""
    record = instance.create()
    directory = instance.layout.vm(record.id).root
    assert instance.wrong() == []
    assert any("row of box" in line for line in instance.left())
    (directory / "handles.json").rename(tmp_path / "handles.json")
    (instance.layout.vms / "stranger").mkdir()
    (directory / "root.ext4.staging").touch()
    (instance.home / "network" / record.id).rename(tmp_path / "attached")
    found = "\n".join(instance.wrong())
    for words in ("handles.json is missing", "directory of no row", "half-made", "attached to the network: []"):
        assert words in found
    (instance.layout.vms / "stranger").rmdir()
    (directory / "root.ext4.staging").unlink()
    instance.delete_all()
    assert instance.left() == []
