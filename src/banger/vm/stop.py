"""Stopping, killing and deleting a machine: tables of steps that are recovered forwards."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from ..guest.agent import Agent
from ..host.files import remove_tree
from ..host.mounts import mounts_in, unmount
from ..host.process import wait_exit
from ..model.errors import BadRequest, GuestError
from ..model.progress import Report
from ..model.records import VMRecord, VMState
from .cleanup import cleanup_runtime, end_machine
from .context import Services
from .steps import Procedure, Step

log = logging.getLogger(__name__)

_KILL_WAIT: Final = 30.0
_SYNC_WAIT: Final = 5.0
_NOT_STARTED: Final = "`vm restart` has stopped it, and did not come to start it again"
_SIGNALS: Final = ("TERM", "KILL", "INT", "HUP", "QUIT", "USR1", "USR2", "ABRT")
_NUMBERS: Final = {str(int(signal.Signals[f"SIG{name}"])): name for name in _SIGNALS}

POWER_OFF: Final = 0
"""``shutdown`` mode: ask the image's init to power off (docs/agent-protocol.md)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndContext:
    """What ending a machine needs to know."""

    vm_id: str
    timeout: float = 0.0
    """Seconds that the guest has to power itself off."""
    signal: str = "KILL"
    reason: str = ""
    """Why, in words for ``vm show``."""
    then_start: bool = False
    """It is the first half of a restart."""


@dataclass(slots=True)
class EndScratch:
    """Nothing is passed between these steps."""


def parse_signal(name: str) -> str:
    """``TERM`` from ``term``, ``SIGTERM``, ``15`` and the like; raises BadRequest for a signal that is not offered."""
    bare = _NUMBERS.get(name) or name.upper().removeprefix("SIG")
    if bare not in _SIGNALS:
        raise BadRequest(f"signal {name!r} is not offered", hint=f"one of {', '.join(_SIGNALS)}")
    return bare


def stop_procedure(services: Services) -> Procedure[EndContext, EndScratch]:
    """The guest powers off, then what is left is removed; the disks stay."""
    steps = _EndSteps(services)
    table = _table("vm.stop", Step("graceful_shutdown", steps.shut_down, waits=True), Step("cleanup_runtime", steps.cleanup))
    return replace(table, interruptible=True)


def kill_procedure(services: Services) -> Procedure[EndContext, EndScratch]:
    """The VMM gets a signal, then what is left is removed; the disks stay."""
    steps = _EndSteps(services)
    return _table("vm.kill", Step("send_signal", steps.send_signal, waits=True), Step("cleanup_runtime", steps.cleanup))


def delete_procedure(services: Services) -> Procedure[EndContext, EndScratch]:
    """Nothing of the machine stays. The row goes last, with the journal entry."""
    steps = _EndSteps(services)
    return _table("vm.delete", Step("kill_running_vm", steps.end_vmm), Step("cleanup_runtime", steps.cleanup), Step("delete_vm_dir", steps.delete_directory))


def _table(kind: str, *steps: Step[EndContext, EndScratch]) -> Procedure[EndContext, EndScratch]:
    return Procedure(kind=kind, recovery="forward", context_type=EndContext, new_scratch=EndScratch, steps=steps)


def stopped(record: VMRecord, reason: str = "") -> VMRecord:
    """The record of a machine that has been stopped, and why."""
    return replace(record, state=VMState.STOPPED, runtime=replace(record.runtime, booted=False, last_error="", last_stop_reason=reason))


def stopped_because(context: EndContext) -> Callable[[VMRecord], VMRecord]:
    """``stopped`` with the reason that the context holds. Until the start of a restart succeeds, the row says that it has not come."""

    def change(record: VMRecord) -> VMRecord:
        changed = stopped(record, context.reason)
        return replace(changed, runtime=replace(changed.runtime, last_error=_NOT_STARTED)) if context.then_start else changed

    return change


async def signal_vmm(services: Services, vm_id: str, name: str) -> bool:
    """Signal the machine's VMM as far as it is known, now; False when there is none."""
    live = services.live.get(vm_id)
    return live is not None and await live.machine.signal(name)


async def remove_directory(services: Services, vm_id: str) -> None:
    """Remove the machine's directory with its disks. What is mounted in it is unmounted first, or left alone: raises OSError or CommandFailed then."""
    root = services.layout.vm(vm_id).root
    for place in await asyncio.to_thread(mounts_in, root):
        log.warning("something is mounted in a machine's directory, unmounting it", extra={"vm_id": vm_id, "what": str(place)})
        await unmount(place)
    await asyncio.to_thread(remove_tree, root)


class _EndSteps:
    def __init__(self, services: Services) -> None:
        self._services = services

    async def shut_down(self, context: EndContext, scratch: EndScratch, report: Report) -> EndContext:
        """Bounded: after the timeout the file systems are flushed and the VMM is ended by the clean-up. A guest without an agent is only ended."""
        live = self._services.live.get(context.vm_id)
        if live is None or live.agent is None or live.agent.closed:
            return context
        try:
            async with asyncio.timeout(context.timeout):
                await live.agent.shutdown(POWER_OFF)
                await wait_exit(live.machine.process)
        except (TimeoutError, GuestError) as error:
            log.warning("graceful_shutdown_timeout", extra={"vm_id": context.vm_id, "error": str(error)})
            report("graceful_shutdown", f"the guest did not power off within {context.timeout:g} s; ending it", warning=True)
            await self._flush(live.agent)
        return context

    async def _flush(self, agent: Agent) -> None:
        try:
            async with asyncio.timeout(_SYNC_WAIT):
                await agent.sync()
        except (TimeoutError, GuestError) as error:
            log.warning("guest file systems could not be flushed", extra={"error": str(error)})

    async def send_signal(self, context: EndContext, scratch: EndScratch, report: Report) -> EndContext:
        live = self._services.live.get(context.vm_id)
        if live is None or not await live.machine.signal(context.signal):
            return context
        try:
            async with asyncio.timeout(_KILL_WAIT):
                await wait_exit(live.machine.process)
        except TimeoutError:
            log.warning("signal_timeout", extra={"vm_id": context.vm_id, "signal": context.signal})
            report("send_signal", f"the VMM did not end within {_KILL_WAIT:g} s of SIG{context.signal}", warning=True)
        return context

    async def end_vmm(self, context: EndContext, scratch: EndScratch, report: Report) -> EndContext:
        try:
            await end_machine(self._services, context.vm_id)
        except Exception as error:  # noqa: BLE001 - the next step tries again and raises
            log.warning("the VMM could not be ended, the clean-up tries again", extra={"vm_id": context.vm_id, "error": str(error)})
        return context

    async def cleanup(self, context: EndContext, scratch: EndScratch, report: Report) -> EndContext:
        await cleanup_runtime(self._services, context.vm_id)
        return context

    async def delete_directory(self, context: EndContext, scratch: EndScratch, report: Report) -> EndContext:
        await remove_directory(self._services, context.vm_id)
        await self._services.capabilities.forget(context.vm_id)
        return context
