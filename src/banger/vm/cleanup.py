"""Removing what a machine's run left behind: one function for stop, kill, delete and stale machines."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from ..host.process import is_alive
from ..model.errors import VmmError
from ..model.records import ProcessIdentity
from ..vmm.protocol import Machine
from .bounds import release_bounds
from .context import Services
from .network import detach_network

log = logging.getLogger(__name__)

_KILL_WAIT: Final = 30.0


async def cleanup_runtime(services: Services, vm_id: str) -> None:
    """End the VMM if it still runs, and remove its network, sockets and handles; the disks stay.

    Every part is tried whatever happens to the others, their errors are joined. The machine itself is asked for the process, not a stored pid.
    """
    files = services.layout.vm(vm_id)

    async def end_vmm() -> None:
        await end_machine(services, vm_id)

    async def clean_up_capabilities() -> None:
        await services.capabilities.clean_up(vm_id)

    async def release_network() -> None:
        await detach_network(services, vm_id)

    async def remove_sockets() -> None:
        services.vmm.remove_sockets(files.root)

    async def remove_bounds() -> None:
        await release_bounds(services, vm_id)

    async def clear_handles() -> None:
        services.handles.clear(vm_id)

    parts = (
        ("vmm", end_vmm),
        ("bounds", remove_bounds),
        ("capabilities", clean_up_capabilities),
        ("network", release_network),
        ("sockets", remove_sockets),
        ("handles", clear_handles),
    )
    await _try_all(vm_id, parts)


async def end_machine(services: Services, vm_id: str) -> None:
    """Close the agent's channel and end the VMM process; success when there is none."""
    live = services.live.pop(vm_id, None)
    try:
        if live is not None and live.agent is not None:
            await live.agent.close()
        machine = live.machine if live is not None else await services.vmm.adopt(vm_id, services.layout.vm(vm_id).root)
        if machine is not None:
            await _bounded(machine.end(), machine.process)
    except BaseException:
        if live is not None and is_alive(live.machine.process):
            services.live[vm_id] = live  # it runs on, and shall not be forgotten
        raise


async def end_unknown(machine: Machine) -> None:
    """End a VMM that no row knows; success when it is gone. Raises VmmError when it cannot be killed."""
    await _bounded(machine.end(), machine.process)


async def _bounded(ending: Awaitable[object], victim: ProcessIdentity) -> None:
    try:
        async with asyncio.timeout(_KILL_WAIT):
            await ending
    except TimeoutError:
        raise VmmError(
            f"the VMM (pid {victim.pid}) does not end although it was killed", hint="the kernel holds it, often for a disk or file system that hangs"
        ) from None


async def _try_all(vm_id: str, parts: tuple[tuple[str, Callable[[], Awaitable[None]]], ...]) -> None:
    errors: list[Exception] = []
    for name, part in parts:
        try:
            await part()
        except Exception as error:
            log.warning("cleanup failed", extra={"vm_id": vm_id, "part": name, "error": str(error)}, exc_info=True)
            errors.append(error)
    if errors:
        raise ExceptionGroup(f"cleaning up after machine {vm_id} failed", errors)
