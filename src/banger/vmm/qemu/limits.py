"""What a machine's QEMU may take of the host, all in all."""

from __future__ import annotations

from typing import Final

from ...model.machine import Limits
from ...model.records import VMSpec
from ...model.sizes import MIB

_KVM_OVERHEAD: Final = 256 * MIB
"""QEMU's own memory, buffers of its disks and network, page tables, and some page cache besides."""
_TCG_OVERHEAD: Final = 1536 * MIB
"""Besides, the translated code: up to 1 GiB (accel/tcg/translate-all.c, DEFAULT_CODE_GEN_BUFFER_SIZE)."""
_PER_CPU: Final = {"kvm": 16 * MIB, "tcg": 160 * MIB}
"""Under TCG mostly the software TLB, which grows with what the guest touches (CPU_TLB_DYN_MAX_BITS)."""
_PAGE_TABLES: Final = 64
"""A part of the guest's memory, one in so many: page tables of host and KVM are one in 256, and bits that note dirty pages."""
_THREADS: Final = 192
"""QEMU has at most 64 threads for the files of its disks, and a handful of others."""


def bounds_of(spec: VMSpec, accelerator: str) -> Limits:
    """The limits of a machine: those that were asked for, and those that never bite a healthy QEMU."""
    overhead = _TCG_OVERHEAD if accelerator == "tcg" else _KVM_OVERHEAD
    guest = spec.memory_mib * MIB
    return Limits(
        memory_max_bytes=guest + guest // _PAGE_TABLES + overhead + spec.vcpu_count * _PER_CPU.get(accelerator, _PER_CPU["tcg"]),
        cpu_quota=spec.cpu_quota,
        pids_max=_THREADS + 2 * spec.vcpu_count,
        io_weight=100,
        disk_bytes_per_second=spec.disk_bytes_per_second,
        disk_operations_per_second=spec.disk_operations_per_second,
        network_bytes_per_second=spec.network_bytes_per_second,
    )
