"""How fast a machine may be: limits that are asked for, beside its size."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, replace
from typing import Final

from .errors import BadRequest
from .limits import MAX_VCPU
from .records import VMSpec
from .sizes import GIB, KIB, format_size

MIN_CPU_QUOTA: Final = 0.05
"""The kernel takes less (1 ms of each 100), but no guest boots in time with it."""
MIN_BYTES: Final = 64 * KIB
MAX_BYTES: Final = 1024 * GIB
MAX_OPERATIONS: Final = 100_000_000
_QUOTA: Final = re.compile(r"([0-9]{1,5}(?:\.[0-9]{1,3})?)(%?)", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What is asked for; None = it stays as it is, 0 = no limit."""

    cpu_quota: float | None = None
    """CPUs that its VMM may use at once, for example 1.5."""
    disk_bytes_per_second: int | None = None
    """Of each disk, reads and writes together."""
    disk_operations_per_second: int | None = None
    """Of each disk, reads and writes together."""
    network_bytes_per_second: int | None = None
    """In each direction."""


def with_rates(spec: VMSpec, rates: Rates) -> VMSpec:
    """The specification with what was asked for."""
    return replace(spec, **{name: value for name, value in asdict(rates).items() if value is not None})


def check_rates(rates: Rates) -> None:
    """Raises BadRequest for the first that is outside its limits."""
    if rates.cpu_quota and not MIN_CPU_QUOTA <= rates.cpu_quota <= MAX_VCPU:
        raise BadRequest(f"cpu-quota must be between {MIN_CPU_QUOTA:g} and {MAX_VCPU} CPUs, not {rates.cpu_quota:g}", hint="for example 150% or 1.5; 0 = none")
    for name, value in (("disk-rate", rates.disk_bytes_per_second), ("net-rate", rates.network_bytes_per_second)):
        if value and not MIN_BYTES <= value <= MAX_BYTES:
            raise BadRequest(f"{name} must be between {format_size(MIN_BYTES)} and {format_size(MAX_BYTES)} per second, not {format_size(value)}")
    if rates.disk_operations_per_second and not 1 <= rates.disk_operations_per_second <= MAX_OPERATIONS:
        raise BadRequest(f"disk-iops must be between 1 and {MAX_OPERATIONS}, not {rates.disk_operations_per_second}")


def parse_cpu_quota(text: str) -> float:
    """CPUs meant by ``150%`` or ``1.5``; 0 = no limit. Raises BadRequest."""
    match = _QUOTA.fullmatch(text.strip())
    if match is None:
        raise BadRequest(f"cpu-quota: {text!r} is no share of CPUs", hint="write 150% or 1.5 for one and a half CPUs; 0 = no limit")
    return float(match[1]) / (100 if match[2] else 1)


def format_cpu_quota(quota: float) -> str:
    """``150%``."""
    return f"{quota * 100:g}%"
