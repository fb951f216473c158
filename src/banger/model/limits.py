"""What a machine may be: limits and defaults of its size, checked by the CLI and again by the daemon (other callers skip the CLI)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from .errors import BadRequest
from .sizes import GIB, MIB, format_size

MAX_VCPU: Final = 64
MIN_MEMORY_MIB: Final = 128
MAX_MEMORY_MIB: Final = 1024 * 1024
MIN_DISK_BYTES: Final = 64 * MIB
MAX_DISK_BYTES: Final = 128 * GIB

FIRST_VMM_UID: Final = 1879048192
LAST_VMM_UID: Final = 2147483646
"""A range that systemd's UIDS-GIDS document lists as unused: uids of VMMs, one each."""

DEFAULT_IMAGE: Final = "debian-bookworm"
FLOOR_VCPU: Final = 2
FLOOR_MEMORY_MIB: Final = 2048
FLOOR_DISK_BYTES: Final = 8 * GIB


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeDefaults:
    """What an omitted option takes; ``provenance`` says for each where it comes from: ``auto`` (this host) or ``builtin``."""

    vcpu_count: int
    memory_mib: int
    work_disk_bytes: int
    system_overlay_bytes: int
    image: str
    provenance: dict[str, str]


def defaults_for_host(cpu_count: int, memory_bytes: int) -> SizeDefaults:
    """A quarter of the CPUs (at most 4) and an eighth of the memory (at most 8 GiB), not less than the built-in floor."""
    vcpu = min(cpu_count // 4, 4)
    memory_mib = min(memory_bytes // 8, 8 * GIB) // MIB
    return SizeDefaults(
        vcpu_count=max(vcpu, FLOOR_VCPU),
        memory_mib=max(memory_mib, FLOOR_MEMORY_MIB),
        work_disk_bytes=FLOOR_DISK_BYTES,
        system_overlay_bytes=FLOOR_DISK_BYTES,
        image=DEFAULT_IMAGE,
        provenance={
            "vcpu_count": "auto" if vcpu >= FLOOR_VCPU else "builtin",
            "memory_mib": "auto" if memory_mib >= FLOOR_MEMORY_MIB else "builtin",
            "work_disk_bytes": "builtin",
            "system_overlay_bytes": "builtin",
            "image": "builtin",
        },
    )


def check_vcpu(count: int) -> int:
    """``count`` itself; raises BadRequest outside 1..64."""
    if not 1 <= count <= MAX_VCPU:
        raise BadRequest(f"vcpu must be between 1 and {MAX_VCPU}, not {count}", hint="for example --vcpu 2")
    return count


def check_memory(mib: int) -> int:
    """``mib`` itself; raises BadRequest outside the limits."""
    if not MIN_MEMORY_MIB <= mib <= MAX_MEMORY_MIB:
        raise BadRequest(
            f"memory must be between {MIN_MEMORY_MIB}M and {MAX_MEMORY_MIB // 1024}G, not {mib}M", hint="for example --memory 2G; a bare number means MiB"
        )
    return mib


def check_disk(size: int, what: str) -> int:
    """``size`` bytes itself; raises BadRequest outside the limits. ``what`` is ``disk-size`` or ``system-overlay-size``."""
    if not MIN_DISK_BYTES <= size <= MAX_DISK_BYTES:
        raise BadRequest(
            f"{what} must be between {format_size(MIN_DISK_BYTES)} and {format_size(MAX_DISK_BYTES)}, not {format_size(size)}", hint=f"for example --{what} 8G"
        )
    return size


def check_spec(*, vcpu_count: int | None, memory_mib: int | None, work_disk_bytes: int | None, system_overlay_bytes: int | None) -> None:
    """Check every size that is given. Raises BadRequest for the first that is outside its limits."""
    if vcpu_count is not None:
        check_vcpu(vcpu_count)
    if memory_mib is not None:
        check_memory(memory_mib)
    if work_disk_bytes is not None:
        check_disk(work_disk_bytes, "disk-size")
    if system_overlay_bytes is not None:
        check_disk(system_overlay_bytes, "system-overlay-size")
