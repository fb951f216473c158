"""The whole kill matrix (a sample of it is in tests/contract), also with real file systems, and a sample with real machines."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from banger.api.image_types import PullImage
from tests.e2e.conftest import on_disk
from tests.e2e.instance import IMAGE
from tests.fakes.harness import FakeInstance, fake_instance
from tests.fakes.matrix import VERBS, double_plans, interrupt, points_of, single_plans

REAL_POINTS = (
    "vm.start/system_overlay:inside",
    "vm.start/vmm_launch:inside",
    "vm.start/vmm_launch:after",
    "vm.start/wait_for_guest:inside",
    "vm.start/configure_guest:inside",
    "vm.start/finish:after",
    "vm.stop/graceful_shutdown:inside",
    "vm.stop/cleanup_runtime:before",
    "vm.delete/kill_running_vm:inside",
    "vm.delete/delete_vm_dir:before",
)


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeInstance]:
    with fake_instance(tmp_path_factory.mktemp("matrix") / "home") as instance:
        yield instance


def every_plan(instance: FakeInstance, name: str) -> list[list[str]]:
    points = points_of(instance, VERBS[name])
    return single_plans(points) + double_plans(instance, VERBS[name], points)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", VERBS)
def test_every_point_of_every_verb(instance: FakeInstance, name: str) -> None:
    wrong = {", then ".join(plan): found for plan in every_plan(instance, name) if (found := interrupt(instance, VERBS[name], plan))}
    assert wrong == {}


@pytest.mark.timeout(300)
def test_every_point_of_a_create_with_real_file_systems(tmp_path: Path) -> None:
    with fake_instance(tmp_path / "home", FAKE_MKE2FS="1") as instance:
        plans = [plan for plan in single_plans(points_of(instance, VERBS["create"])) if "system_overlay" in plan[0] or "host_features" in plan[0]]
        assert {", then ".join(plan): found for plan in plans if (found := interrupt(instance, VERBS["create"], plan))} == {}


@pytest.mark.timeout(1800)
def test_a_sample_with_real_machines() -> None:
    place = on_disk("banger-matrix-")
    try:
        with fake_instance(place / "home", FAKE_DRIVERS="none") as instance:
            with instance.client() as client:
                client.operation("image.pull", None, PullImage(reference=IMAGE))
            wrong = {}
            for point in REAL_POINTS:
                verb = VERBS[{"vm.start": "create", "vm.stop": "stop", "vm.delete": "delete"}[point.partition("/")[0]]]
                if found := interrupt(instance, verb, [f"{point} kill"]):
                    wrong[point] = found
            assert wrong == {}
    finally:
        shutil.rmtree(place)
