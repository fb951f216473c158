"""At daemon start: finish or undo what a dead daemon left open, take over machines that still run, demote those that do not."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace

from ..model.opid import current_op_id
from ..model.progress import silent
from ..model.records import VMRecord, VMState
from ..net.protocol import ListsHelpers
from ..store import Journal, JournalEntry
from ..vmm.protocol import ListsMachines, Machine
from .change import respecified, set_procedure
from .cleanup import cleanup_runtime
from .context import Services
from .start import start_procedure
from .stop import delete_procedure, kill_procedure, stop_procedure, stopped, stopped_because
from .watch import adopt

log = logging.getLogger(__name__)


async def recover(services: Services, journal: Journal) -> None:
    """Bring rows and machine into agreement. One machine that resists does not keep the others from being recovered."""
    by_machine: dict[str, list[JournalEntry]] = {}
    for entry in journal.entries():
        by_machine.setdefault(entry.vm_id, []).append(entry)
    await asyncio.gather(*(_settle_in_order(services, entries) for entries in by_machine.values()))
    records = services.vms.list()
    machines = await _running(services, records)
    helpers = await services.network.list_helpers(services.layout.vms) if isinstance(services.network, ListsHelpers) else {}
    await asyncio.gather(*(_check(services, record, machines.get(record.id), helped=record.id in helpers) for record in records))


async def _settle_in_order(services: Services, entries: list[JournalEntry]) -> None:
    for entry in entries:
        token = current_op_id.set(entry.op_id)
        try:
            await _settle(services, entry)
        except Exception:
            log.exception("an open operation could not be recovered", extra={"vm_id": entry.vm_id, "kind": entry.kind})
        finally:
            current_op_id.reset(token)


async def _take_over(services: Services, vm_id: str) -> None:
    """A guest that was asked to power off, or was to be asked, still gets its time for that: what it has not written yet would be lost."""
    record, machine = services.vms.get(vm_id), await services.vmm.adopt(vm_id, services.layout.vm(vm_id).root)
    if record is not None and machine is not None:
        await adopt(services, record, machine)


async def _running(services: Services, records: tuple[VMRecord, ...]) -> Mapping[str, Machine]:
    """The running machines of these rows, by id; with one look at the host where the driver can."""
    if isinstance(services.vmm, ListsMachines):
        return await services.vmm.list_machines(services.layout.vms, {record.id for record in records})
    found = [(record.id, await services.vmm.adopt(record.id, services.layout.vm(record.id).root)) for record in records]
    return {vm_id: machine for vm_id, machine in found if machine is not None}


async def _settle(services: Services, entry: JournalEntry) -> None:
    runner, vm_id = services.runner, entry.vm_id

    def interrupted(record: VMRecord) -> VMRecord:
        runtime = replace(record.runtime, last_error="the daemon ended in the middle of the start; it was rolled back")
        return replace(record, state=VMState.ERROR, runtime=runtime)

    match entry.kind:
        case "vm.start":
            await runner.recover(start_procedure(services), entry, report=silent, finish=lambda _: _change(services, vm_id, interrupted))
        case "vm.stop":
            await _take_over(services, vm_id)
            await runner.recover(stop_procedure(services), entry, report=silent, finish=lambda context: _change(services, vm_id, stopped_because(context)))
        case "vm.kill":
            await runner.recover(kill_procedure(services), entry, report=silent, finish=lambda context: _change(services, vm_id, stopped_because(context)))
        case "vm.delete":
            await runner.recover(delete_procedure(services), entry, report=silent, finish=lambda _: services.vms.delete(vm_id))
        case "vm.set":
            await runner.recover(set_procedure(services), entry, report=silent, finish=lambda to: _change(services, vm_id, lambda r: respecified(r, to.spec)))
        case unknown:
            log.error("the journal has an operation of an unknown kind; it is left alone", extra={"kind": unknown, "vm_id": vm_id})


def _change(services: Services, vm_id: str, change: Callable[[VMRecord], VMRecord]) -> None:
    if services.vms.get(vm_id) is not None:
        services.vms.update(vm_id, change)


async def _check(services: Services, record: VMRecord, machine: Machine | None, *, helped: bool) -> None:
    """Adopt a machine that runs and should, clean up after any other that left something.

    A row that is ``created`` without an open operation was reserved and never started, because the daemon died in between: it stays as it is and can be
    started, or pruned.
    """
    try:
        async with services.locks.hold(record.id):
            if record.state is VMState.RUNNING and machine is not None:
                await adopt(services, record, machine)
            elif record.state in (VMState.RUNNING, VMState.ERROR) or machine is not None or helped or record.runtime.tap:
                log.info("stale machine", extra={"vm_id": record.id, "vm_name": record.name, "state": record.state})
                await cleanup_runtime(services, record.id)
                if record.state is VMState.RUNNING:
                    services.vms.update(record.id, lambda current: stopped(current, "it ended while no daemon ran"))
    except Exception:
        log.exception("a machine could not be recovered", extra={"vm_id": record.id, "vm_name": record.name})
