"""Watching running machines: one that ends by itself becomes ``stopped``, one whose channel breaks is attached again."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import replace

from ..guest.agent import Agent
from ..host import facts
from ..host.files import tail
from ..host.process import is_alive, wait_exit
from ..model.errors import BangerError, VmmError
from ..model.records import VMHandles, VMRecord, VMState
from ..vmm.protocol import BoundsLogs, Machine, PausesOnFullDisk
from .bounds import memory_death
from .cleanup import cleanup_runtime
from .context import Live, Services
from .failure import end_of_init
from .stop import stopped

log = logging.getLogger(__name__)

_ATTACH_DEADLINE = 15.0
_ADOPTION_SECONDS = 2.0
"""At daemon start the first callers wait for it; a guest that takes longer is attached in the background."""
_RETRY_SECONDS = 1.0
_LOG_CHECK_SECONDS = 30.0
_PING_SECONDS = 10.0
_RESUME_SECONDS = 15.0
_SILENCE_SECONDS = 30.0
"""A guest on a busy host can take a few seconds; one that takes longer is frozen, or its agent is dead."""


def watch(services: Services, vm_id: str) -> None:
    """Begin to watch a machine that is in ``services.live``; ends by itself when the machine is no longer there."""
    live = services.live[vm_id]
    live.watcher = asyncio.create_task(_watch(services, vm_id, live), name=f"watch {vm_id}")


async def adopt(services: Services, record: VMRecord, machine: Machine) -> None:
    """Take over a machine that an earlier daemon left running: attach to its agent and watch it.

    An agent that does not answer soon is waited for by the watcher: one guest that hangs keeps neither the daemon nor the other machines waiting.
    """
    live = Live(machine)
    services.live[record.id] = live
    log.info("adopted", extra={"vm_id": record.id, "vm_name": record.name, "pid": machine.process.pid})
    _repair_handles(services, record.id, machine)
    attaching = asyncio.create_task(_attach(services, record.id, live), name=f"attach {record.id}")
    live.watcher = asyncio.create_task(_watch(services, record.id, live, attaching), name=f"watch {record.id}")
    await asyncio.wait((attaching,), timeout=_ADOPTION_SECONDS)


def _repair_handles(services: Services, vm_id: str, machine: Machine) -> None:
    """What the machine shows wins over what ``handles.json`` says: that may be damaged, of another boot, or name another process."""
    handles = services.handles.get(vm_id)
    if handles is not None and handles.vmm == machine.process:
        return
    log.warning("handles.json did not name the machine's process and is written again", extra={"vm_id": vm_id, "pid": machine.process.pid})
    try:
        services.handles.put(vm_id, VMHandles(boot_id=facts.boot_id(), vmm=machine.process))
    except OSError as error:
        log.warning("handles.json could not be written", extra={"vm_id": vm_id, "error": str(error)})


async def _watch(services: Services, vm_id: str, live: Live, attaching: asyncio.Task[bool] | None = None) -> None:
    if attaching is not None:
        await asyncio.gather(attaching, return_exceptions=True)
    death = asyncio.create_task(wait_exit(live.machine.process))
    booting = asyncio.create_task(_note_boot(services, vm_id, live))
    bounding = asyncio.create_task(_bound_logs(services, vm_id))
    listening = asyncio.create_task(_notice_silence(vm_id, live))
    resuming = asyncio.create_task(_resume_paused(vm_id, live))
    try:
        while services.live.get(vm_id) is live and not death.done():
            if booting.done():  # the channel was not there, or broke before the guest had said so
                booting = asyncio.create_task(_note_boot(services, vm_id, live))
            await _until_broken(live, death)
            if not death.done() and services.live.get(vm_id) is live and not await _attach(services, vm_id, live):
                await asyncio.wait((death,), timeout=_RETRY_SECONDS)
        if services.live.get(vm_id) is live:
            await _demote(services, vm_id, live, death.result() if death.done() else None)
    finally:
        for task in (death, booting, bounding, listening, resuming):
            task.cancel()
        await asyncio.gather(death, booting, bounding, listening, resuming, return_exceptions=True)


async def _until_broken(live: Live, death: asyncio.Task[int | None]) -> None:
    if live.agent is None or live.agent.closed:
        return
    closed = asyncio.create_task(live.agent.wait_closed())
    try:
        await asyncio.wait((closed, death), return_when=asyncio.FIRST_COMPLETED)
        if closed.done() and not death.done():
            # A VMM that ends closes the channel a moment before the process is gone.
            await asyncio.wait((death,), timeout=0.2)
    finally:
        closed.cancel()
        await asyncio.gather(closed, return_exceptions=True)


async def _attach(services: Services, vm_id: str, live: Live) -> bool:
    try:
        if live.agent is not None:
            await live.agent.close()
        live.agent = await Agent.attach(await live.machine.connect_agent(), deadline=_ATTACH_DEADLINE)
    except (BangerError, OSError) as error:
        log.warning("the agent does not answer", extra={"vm_id": vm_id, "error": str(error)})
        return False
    log.info("agent attached", extra={"vm_id": vm_id})
    return True


async def _note_boot(services: Services, vm_id: str, live: Live) -> None:
    """Note on the row that the image's own init is up. Nobody waits for it here, so a guest that never says so costs nothing."""
    if live.agent is None:
        return
    with contextlib.suppress(BangerError):
        await live.agent.wait_booted()
        if services.live.get(vm_id) is live:
            services.vms.update(vm_id, lambda record: replace(record, runtime=replace(record.runtime, booted=True)))


async def _bound_logs(services: Services, vm_id: str) -> None:
    """Keep a guest that floods its console from filling the host's disk."""
    if not isinstance(services.vmm, BoundsLogs):
        return
    while True:
        await asyncio.sleep(_LOG_CHECK_SECONDS)
        try:
            services.vmm.bound_logs(services.layout.vm(vm_id).root)
        except OSError as error:
            log.warning("a log could not be bounded", extra={"vm_id": vm_id, "error": str(error)})


async def _notice_silence(vm_id: str, live: Live) -> None:
    """End the channel of a guest that no longer answers while somebody waits for it: a virtio-serial port does not tell when the other end has died."""
    while True:
        await asyncio.sleep(_PING_SECONDS)
        agent = live.agent
        if agent is None or agent.closed or not agent.busy:
            continue
        try:
            async with asyncio.timeout(_SILENCE_SECONDS):
                await agent.ping()
        except TimeoutError:
            log.warning("the agent fell silent, its streams are ended", extra={"vm_id": vm_id, "seconds": _SILENCE_SECONDS})
            await agent.close()
        except BangerError as error:
            log.info("the channel ended", extra={"vm_id": vm_id, "error": str(error)})


async def _resume_paused(vm_id: str, live: Live) -> None:
    """Let a machine go on that was paused because the host's disk was full. Nobody tells when there is room again, so it is tried now and then."""
    machine = live.machine
    if not isinstance(machine, PausesOnFullDisk):
        return
    while True:
        await asyncio.sleep(_RESUME_SECONDS)
        try:
            if await machine.is_out_of_space():
                log.warning("the machine is paused: the host's disk is full; trying to go on", extra={"vm_id": vm_id})
                await machine.go_on()
        except VmmError as error:
            log.debug("the VMM does not say whether it is paused", extra={"vm_id": vm_id, "error": str(error)})


def end_reason(status: int | None, console: str = "") -> str:
    """Why a machine does not run that nobody here has ended, from its VMM's exit status (negative: a signal; None where that is not known) and
    the end of its console.
    """
    if status in (None, 0) and (why := end_of_init(console)):
        return f"{why}; the console ends with:\n{console.strip()}"
    match status:
        case None | 0:  # QEMU's way out when the guest has powered off
            return "it ended by itself"
        case _ if status < 0:
            return f"its VMM ended by itself: signal {-status}"
        case _:
            return f"its VMM ended by itself: status {status}"


async def _demote(services: Services, vm_id: str, live: Live, status: int | None) -> None:
    """The VMM ended by itself (the guest powered off, or it crashed)."""
    async with services.locks.hold(vm_id):
        record = services.vms.get(vm_id)
        if record is None or services.live.get(vm_id) is not live or is_alive(live.machine.process):
            return
        log.info("the machine ended by itself", extra={"vm_id": vm_id, "vm_name": record.name, "exit_status": status})
        why = await memory_death(services, vm_id)
        try:
            await cleanup_runtime(services, vm_id)
        except ExceptionGroup as error:
            log.warning("stale machine was not cleaned up completely", extra={"vm_id": vm_id, "error": str(error)})
        if record.state is VMState.RUNNING:
            console = tail(services.layout.vm(vm_id).console_log)
            services.vms.update(vm_id, lambda current: stopped(current, why or end_reason(status, console)))
