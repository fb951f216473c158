"""Rates of machines."""

from __future__ import annotations

import pytest

from banger.model.errors import BadRequest
from banger.model.rates import Rates, check_rates, format_cpu_quota, parse_cpu_quota, with_rates
from banger.model.records import VMSpec


@pytest.mark.parametrize(("text", "cpus"), [("150%", 1.5), ("1.5", 1.5), ("2", 2.0), ("0", 0.0), ("5%", 0.05), (" 12.5% ", 0.125)])
def test_a_share_of_cpus(text: str, cpus: float) -> None:
    assert parse_cpu_quota(text) == cpus


@pytest.mark.parametrize("text", ["", "x", "1x", "-1", "1e3", "nan", "inf", "1.", ".5", "%", "1%%", "١", "999999"])
def test_what_is_none(text: str) -> None:
    with pytest.raises(BadRequest):
        parse_cpu_quota(text)


def test_a_share_is_shown_as_it_is_written() -> None:
    assert [format_cpu_quota(quota) for quota in (1.5, 0.05, 2)] == ["150%", "5%", "200%"]


@pytest.mark.parametrize(
    "rates",
    [
        Rates(cpu_quota=0.01),
        Rates(cpu_quota=1000),
        Rates(cpu_quota=-1),
        Rates(cpu_quota=float("nan")),
        Rates(disk_bytes_per_second=1),
        Rates(disk_bytes_per_second=-1),
        Rates(network_bytes_per_second=1 << 60),
        Rates(disk_operations_per_second=-5),
    ],
)
def test_what_cannot_be(rates: Rates) -> None:
    with pytest.raises(BadRequest):
        check_rates(rates)


def test_what_is_not_named_stays() -> None:
    spec = VMSpec(vcpu_count=1, memory_mib=512, system_overlay_bytes=1, work_disk_bytes=1, cpu_quota=2.0, disk_bytes_per_second=1 << 20)
    check_rates(rates := Rates(cpu_quota=0, disk_operations_per_second=100))
    changed = with_rates(spec, rates)
    assert (changed.cpu_quota, changed.disk_bytes_per_second, changed.disk_operations_per_second) == (0, 1 << 20, 100)
