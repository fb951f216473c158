"""Limits that hold, or are refused; why the kernel ended a VMM."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import pytest

from banger.model.errors import BadRequest
from banger.model.machine import GroupUsage, Limits
from banger.model.rates import Rates
from banger.model.records import VMSpec
from banger.model.sizes import GIB, MIB
from banger.vm.bounds import check_limits_hold, limits_of, memory_death
from banger.vm.context import Services
from banger.vm.start import choose_uid
from banger.vmm.protocol import BoundsMachines
from banger.vmm.qemu.limits import bounds_of

SPEC = VMSpec(vcpu_count=2, memory_mib=2048, system_overlay_bytes=1, work_disk_bytes=1)


@dataclass
class Bounding:
    """The part of a driver that bounds its machines."""

    words: frozenset[str] = frozenset()
    own_uids: bool = False
    said: GroupUsage | None = None
    name: str = "fake"

    def enforced(self) -> frozenset[str]:
        return self.words

    def bounds_of(self, spec: VMSpec, accelerator: str) -> Limits:
        return bounds_of(spec, accelerator)

    async def limit(self, vm_id: str, limits: Limits) -> None:
        raise AssertionError

    async def release(self, vm_id: str) -> None:
        raise AssertionError

    def bounds(self) -> frozenset[str]:
        return frozenset()

    def usage(self, vm_id: str) -> GroupUsage | None:
        return self.said


def services(vmm: Any) -> Services:
    return cast("Services", SimpleNamespace(vmm=vmm))


@pytest.mark.parametrize(
    ("rates", "word", "said"),
    [
        (Rates(cpu_quota=1), "cpu", "--cpu-quota"),
        (Rates(disk_bytes_per_second=1 << 20), "disk", "--disk-rate"),
        (Rates(disk_operations_per_second=5), "disk", "--disk-iops"),
        (Rates(network_bytes_per_second=1 << 20), "network", "--net-rate"),
    ],
)
def test_a_limit_holds_or_is_refused(rates: Rates, word: str, said: str) -> None:
    check_limits_hold(services(Bounding(frozenset({word}))), rates)
    for vmm in (Bounding(frozenset({"cpu", "disk", "network"} - {word})), SimpleNamespace(name="bare")):
        check_limits_hold(services(vmm), Rates(cpu_quota=0, disk_bytes_per_second=0))
        with pytest.raises(BadRequest, match=said):
            check_limits_hold(services(vmm), rates)


def test_a_driver_without_bounds_has_no_limits() -> None:
    assert limits_of(services(SimpleNamespace(name="bare")), SPEC, "kvm") == Limits()
    assert isinstance(Bounding(), BoundsMachines)


def test_memory_leaves_room_for_the_vmm() -> None:
    kvm, tcg = (bounds_of(SPEC, accelerator) for accelerator in ("kvm", "tcg"))
    assert 2 * GIB + 256 * MIB <= kvm.memory_max_bytes <= 3 * GIB
    assert tcg.memory_max_bytes >= 2 * GIB + 1024 * MIB + 256 * MIB
    assert kvm.pids_max >= 64 + SPEC.vcpu_count


async def test_a_kill_for_memory_is_told() -> None:
    said = GroupUsage(memory_max_bytes=3 * GIB, oom_kills=1)
    assert "limit of 3G of its memory" in await memory_death(services(Bounding(said=said)), "x")
    for nothing in (GroupUsage(oom_kills=0), GroupUsage(), None):
        assert await memory_death(services(Bounding(said=nothing)), "x") == ""


def test_uids_are_for_drivers_that_can_use_them() -> None:
    used: frozenset[int] = frozenset()
    assert choose_uid(cast("Any", Bounding(own_uids=False)), used) == -1
    assert choose_uid(cast("Any", Bounding(own_uids=True)), used) >= 1879048192
