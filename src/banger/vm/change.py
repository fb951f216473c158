"""Changing what a machine is: a table of steps that is recovered forwards. Disks only grow; what a machine that runs can take at once is told here."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace

from ..model.durations import check_duration
from ..model.errors import BadRequest, BangerError, NotStopped
from ..model.forwards import Forward, check_forwards, without
from ..model.limits import check_spec
from ..model.progress import Report
from ..model.rates import Rates, check_rates, with_rates
from ..model.records import VMRecord, VMSpec, VMState
from ..model.sizes import format_size
from ..net.protocol import SwitchesNat
from ..vmm.protocol import Machine, SwitchesLink
from .bounds import change_limits
from .context import Services
from .network import place_of
from .steps import Procedure, Step

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What shall be different; None leaves a value as it is. Sizes are bytes."""

    vcpu_count: int | None = None
    memory_mib: int | None = None
    system_overlay_bytes: int | None = None
    work_disk_bytes: int | None = None
    nat: bool | None = None
    ttl_seconds: float | None = None
    idle_seconds: float | None = None
    autostart: bool | None = None
    rates: Rates = field(default_factory=Rates)
    publish: tuple[Forward, ...] = ()
    """Ports of this host to publish besides."""
    unpublish: tuple[str, ...] = ()
    """``[BIND:]HOSTPORT`` of those to take back, before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetContext:
    """What finishing a change needs to know."""

    vm_id: str
    uid: int
    spec: VMSpec
    """The whole specification as it shall be."""


@dataclass(slots=True)
class SetScratch:
    """Nothing is passed between these steps."""


def check_change(change: Change) -> None:
    """Refuse what can be refused without looking at a machine. Raises BadRequest."""
    if change == Change():
        raise BadRequest(
            "nothing to change",
            hint="name one of --vcpu, --memory, --disk-size, --system-overlay-size, --[no-]nat, --ttl, --idle, --[no-]autostart, --publish, --unpublish, "
            "--cpu-quota, --disk-rate, --disk-iops, --net-rate",
        )
    check_spec(
        vcpu_count=change.vcpu_count,
        memory_mib=change.memory_mib,
        work_disk_bytes=change.work_disk_bytes,
        system_overlay_bytes=change.system_overlay_bytes,
    )
    check_duration(change.ttl_seconds or 0.0, "ttl")
    check_duration(change.idle_seconds or 0.0, "idle")
    check_rates(change.rates)


def changed_spec(record: VMRecord, change: Change) -> VMSpec:
    """The specification that the machine shall have. Raises BadRequest for a disk that would shrink."""
    spec = with_rates(record.spec, change.rates)
    return replace(
        spec,
        vcpu_count=spec.vcpu_count if change.vcpu_count is None else change.vcpu_count,
        memory_mib=spec.memory_mib if change.memory_mib is None else change.memory_mib,
        system_overlay_bytes=_grown(record.name, "system-overlay-size", spec.system_overlay_bytes, change.system_overlay_bytes),
        work_disk_bytes=_grown(record.name, "disk-size", spec.work_disk_bytes, change.work_disk_bytes),
        nat=spec.nat if change.nat is None else change.nat,
        ttl_seconds=spec.ttl_seconds if change.ttl_seconds is None else change.ttl_seconds,
        idle_seconds=spec.idle_seconds if change.idle_seconds is None else change.idle_seconds,
        autostart=spec.autostart if change.autostart is None else change.autostart,
        publish=_published(spec.publish, change),
    )


def _published(present: tuple[Forward, ...], change: Change) -> tuple[Forward, ...]:
    for place in change.unpublish:
        present = without(present, place)
    wanted = (*present, *(one for one in change.publish if one not in present))
    check_forwards(wanted)
    return wanted


def _grown(name: str, option: str, present: int, wanted: int | None) -> int:
    if wanted is not None and wanted < present:
        raise BadRequest(
            f"{name}: a disk cannot shrink: {option} is {format_size(present)}, {format_size(wanted)} was asked for",
            hint="its content can be moved to a new machine with a smaller disk",
        )
    return present if wanted is None else wanted


async def check_live_change(services: Services, record: VMRecord, spec: VMSpec, machine: Machine | None) -> None:
    """Refuse what a machine that runs cannot become: NotStopped, which names the verbs to use; what ``check_publish`` raises for ports that are new to it."""
    held = {one.endpoint for one in record.spec.publish}
    await services.capabilities.check_publish([one for one in spec.publish if one.endpoint not in held])
    live = replace(
        record.spec,
        nat=spec.nat,
        ttl_seconds=spec.ttl_seconds,
        idle_seconds=spec.idle_seconds,
        autostart=spec.autostart,
        publish=spec.publish,
        cpu_quota=spec.cpu_quota,
    )
    if live != spec:
        raise NotStopped(f"{record.name} is running; what it is made of can only be changed while it is stopped", hint=f"banger vm stop {record.name}")
    if spec.nat == record.spec.nat:
        return
    if spec.nat and not record.runtime.has_card:
        raise NotStopped(
            f"{record.name} was started without a network card, and none can be plugged in while it runs",
            hint=f"banger vm stop {record.name}; banger vm set {record.name} --nat; banger vm start {record.name}",
        )
    if record.runtime.tap:
        if not isinstance(services.network, SwitchesNat):
            raise NotStopped(f"{record.name} is on a bridge that this daemon does not have ([network] mode)", hint=f"banger vm stop {record.name}")
    elif record.runtime.has_card and not isinstance(machine, SwitchesLink):
        raise NotStopped(f"{record.runtime.vmm} cannot switch the network of a machine that runs", hint=f"banger vm stop {record.name}")


def set_procedure(services: Services) -> Procedure[SetContext, SetScratch]:
    """Grow the disks, switch the network of a machine that runs; the row gets its new specification with the end of the journal entry."""
    steps = _SetSteps(services)
    return Procedure(
        kind="vm.set",
        recovery="forward",
        context_type=SetContext,
        new_scratch=SetScratch,
        settles=False,
        steps=(
            Step("grow_system_overlay", steps.grow_overlay),
            Step("apply_change", steps.apply_change),
            Step("switch_network", steps.switch_network),
            Step("change_limits", steps.change_limits),
        ),
    )


def respecified(record: VMRecord, spec: VMSpec) -> VMRecord:
    """The record with its new specification; what an earlier attempt complained about is settled."""
    runtime = record.runtime if record.state is VMState.ERROR else replace(record.runtime, last_error="")
    return replace(record, spec=spec, runtime=runtime)


async def keep_network(services: Services, vm_id: str) -> None:
    """After a change that failed: a machine that runs may go out if its row says so, whatever the change had come to."""
    record = services.vms.get(vm_id)
    if record is None or record.state is not VMState.RUNNING or not record.runtime.has_card:
        return
    try:
        if not record.runtime.tap:
            await _switch_link(services, vm_id, up=record.spec.nat)
        elif isinstance(services.network, SwitchesNat):
            await services.network.set_nat(place_of(record), nat=record.spec.nat)
    except BangerError as error:
        log.warning("the network of a machine may not be as its row says", extra={"vm_id": vm_id, "error": error.message})


async def _switch_link(services: Services, vm_id: str, *, up: bool) -> None:
    live = services.live.get(vm_id)
    machine: object = live.machine if live is not None else await services.vmm.adopt(vm_id, services.layout.vm(vm_id).root)
    if isinstance(machine, SwitchesLink):
        await machine.switch_link(up=up)


class _SetSteps:
    def __init__(self, services: Services) -> None:
        self._services = services

    async def grow_overlay(self, context: SetContext, scratch: SetScratch, report: Report) -> SetContext:
        self._tell_removed_disks(context, report)
        if self._present(context).system_overlay_bytes < context.spec.system_overlay_bytes:
            await self._services.root_disk.grow(self._services.layout.vm(context.vm_id), context.spec, context.uid)
        return context

    async def apply_change(self, context: SetContext, scratch: SetScratch, report: Report) -> SetContext:
        before = self._services.vms.get(context.vm_id)
        if before is not None:
            await self._services.capabilities.apply_change(before, replace(before, spec=context.spec))
        return context

    async def switch_network(self, context: SetContext, scratch: SetScratch, report: Report) -> SetContext:
        """Of a machine that runs, if it has a card of its own; after a crash it is looked for on the host, since nobody has adopted it yet. On a bridge the
        host lets machines out (``vm/nat.py``), and their link stays up.
        """
        record = self._services.vms.get(context.vm_id)
        if record is None or record.state is not VMState.RUNNING or not record.runtime.has_card or record.spec.nat == context.spec.nat:
            return context
        if record.runtime.tap:
            return context
        await _switch_link(self._services, context.vm_id, up=context.spec.nat)
        return context

    async def change_limits(self, context: SetContext, scratch: SetScratch, report: Report) -> SetContext:
        """Of a machine that runs."""
        record = self._services.vms.get(context.vm_id)
        if record is not None and record.state is VMState.RUNNING:
            await change_limits(self._services, record, context.spec)
        return context

    def _tell_removed_disks(self, context: SetContext, report: Report) -> None:
        record, files = self._services.vms.get(context.vm_id), self._services.layout.vm(context.vm_id)
        if record is not None and record.runtime.ready_seconds and not (files.overlay_disk.exists() and files.work_disk.exists()):
            report("grow_system_overlay", f"a disk of {record.name} has been removed from {files.root}: the next start makes an empty one", warning=True)

    def _present(self, context: SetContext) -> VMSpec:
        """What the row still says: it changes last. A row that is gone has nothing to grow."""
        record = self._services.vms.get(context.vm_id)
        return context.spec if record is None else record.spec
