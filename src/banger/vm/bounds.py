"""Limits of machines: whether this host can hold them, and what became of the process that met one."""

from __future__ import annotations

import asyncio
from typing import Final

from ..model.errors import BadRequest
from ..model.machine import GroupUsage, Limits
from ..model.rates import Rates
from ..model.records import VMRecord, VMSpec
from ..model.sizes import format_size
from ..vmm.protocol import BoundsMachines
from .context import Services

_NO_CPU: Final = "it needs a cgroup: a daemon that is root, a user's systemd that was given the cpu controller, or `sudo banger system install`"


def check_limits_hold(services: Services, spec: VMSpec | Rates) -> None:
    """Refuse limits that would be words only. Raises BadRequest."""
    vmm = services.vmm
    enforced = vmm.enforced() if isinstance(vmm, BoundsMachines) else frozenset()
    if spec.cpu_quota and "cpu" not in enforced:
        raise BadRequest("--cpu-quota: the CPU of machines cannot be limited here", hint=_NO_CPU)
    if (spec.disk_bytes_per_second or spec.disk_operations_per_second) and "disk" not in enforced:
        raise BadRequest(f"--disk-rate, --disk-iops: {vmm.name} cannot limit disks", hint="leave them out")
    if spec.network_bytes_per_second and "network" not in enforced:
        raise BadRequest(f"--net-rate: {vmm.name} cannot limit the network of a machine", hint="leave it out")


def limits_of(services: Services, spec: VMSpec, accelerator: str) -> Limits:
    """What the driver makes of a specification."""
    return services.vmm.bounds_of(spec, accelerator) if isinstance(services.vmm, BoundsMachines) else Limits()


async def change_limits(services: Services, record: VMRecord, spec: VMSpec) -> None:
    """Let what can change at once hold for a machine that runs. Raises VmmError."""
    if isinstance(services.vmm, BoundsMachines) and spec.cpu_quota != record.spec.cpu_quota:
        await services.vmm.limit(record.id, services.vmm.bounds_of(spec, record.runtime.accelerator))


async def release_bounds(services: Services, vm_id: str) -> None:
    """Remove the cgroup or scope of a machine whose VMM has ended; success when there is none. Raises VmmError."""
    if isinstance(services.vmm, BoundsMachines):
        await services.vmm.release(vm_id)


async def bounds_usage(services: Services, vm_id: str) -> GroupUsage | None:
    """What the machine's bounds say; None without any."""
    return await asyncio.to_thread(services.vmm.usage, vm_id) if isinstance(services.vmm, BoundsMachines) else None


async def memory_death(services: Services, vm_id: str) -> str:
    """Why the kernel killed a VMM that has just died, when its bounds say so; "" otherwise. To be asked before they are removed."""
    usage = await bounds_usage(services, vm_id)
    if usage is None or not usage.oom_kills:
        return ""
    size = f" of {format_size(usage.memory_max_bytes)}" if usage.memory_max_bytes else ""
    return f"the kernel killed its VMM: it had reached the limit{size} of its memory, its own and the guest's"
