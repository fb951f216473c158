"""Machines: every verb of a machine's life, under its lock."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

from ..host.paths import Layout
from ..image.service import ImageService
from ..model.config import Config
from ..model.errors import BadRequest, BangerError, GuestTimeout, NotStopped, StoreError
from ..model.progress import Report, silent
from ..model.records import VMRecord, VMState
from ..net.protocol import Network
from ..storage.protocol import RootDisk
from ..store import Database, ImageTable, Journal, VMTable
from ..vmm.protocol import Vmm
from .autostop import AutoStop, CarryOut, carry_out_unseen
from .bounds import check_limits_hold
from .capabilities import Capabilities
from .change import Change, SetContext, changed_spec, check_change, check_live_change, keep_network, respecified, set_procedure
from .cleanup import end_machine
from .context import Services, disk_owner
from .create import NewVM, check_new, reserve, resolve_spec
from .failure import failed_end, failed_start, with_error
from .handles import HandleCache
from .leftovers import Leftover, collect_garbage, log_leftovers
from .recover import recover
from .start import Ground, check_host, start_context, start_procedure, started
from .steps import Procedure, StepRunner
from .stop import (
    EndContext,
    EndScratch,
    delete_procedure,
    kill_procedure,
    parse_signal,
    remove_directory,
    signal_vmm,
    stop_procedure,
    stopped_because,
)
from .views import MachineViews
from .watch import watch
from .work_disk import WorkDisk

log = logging.getLogger(__name__)

_BOOT_DEADLINE = 180.0
_STOP_TIMEOUT = 15.0


class Machines(MachineViews):
    """The service behind every ``banger vm`` command.

    Verbs that meet on one machine take turns in the order in which they came; a create has the machine from the moment its name is reserved. So a stop
    during a start waits for it and then does its work; of two deletions the second finds nothing (NotFound); a prune during a create finds a machine that
    runs, and leaves it alone (NotStopped). Kill and delete do not wait for what may hang: their signal goes to the VMM at once, and a start or stop that has
    the machine, or waits for it before them, is rolled back and fails (VmmError). Who waits can be cancelled. Verbs on different machines do not wait for
    each other.
    """

    def __init__(
        self,
        *,
        layout: Layout,
        database: Database,
        images: ImageService,
        vmm: Vmm,
        root_disk: RootDisk,
        network: Network,
        guest_deadline: float,
        capabilities: Capabilities | None = None,
        config: Config | None = None,
        runner_type: Callable[[Database, Journal], StepRunner] = StepRunner,
        carry_out: CarryOut = carry_out_unseen,
    ) -> None:
        """``guest_deadline``: seconds that a guest has from launch to hello, and again to ready. ``runner_type`` is where tests interrupt steps.

        ``carry_out`` runs what nobody has asked for. ``capabilities``: what machines have beyond a VMM and a root disk; the work disk when not given.
        """
        self._journal = Journal(database)
        services = Services(
            layout=layout,
            database=database,
            vms=VMTable(database),
            image_table=ImageTable(database),
            images=images,
            vmm=vmm,
            root_disk=root_disk,
            network=network,
            runner=runner_type(database, self._journal),
            handles=HandleCache(layout),
            capabilities=capabilities or Capabilities(WorkDisk(layout)),
            guest_deadline=guest_deadline,
        )
        super().__init__(services, config or Config())
        self._carry_out = carry_out
        self._auto_stop = AutoStop(
            running=lambda: tuple(filter(self._services.alive, self.list())),
            ask=lambda vm_id: self.agent(vm_id).stats(),
            stop=self._stop_if_due,
            stale_after=self.config.auto_stop_stale_after,
        )

    # -- verbs ---------------------------------------------------------------------------------------------------------------------------------

    async def create(self, new: NewVM, report: Report, on_reserved: Callable[[VMRecord], None]) -> VMRecord:
        """Make a machine and (unless ``new.start`` is false) start it.

        ``on_reserved`` is called right after the row is committed. A request that does not validate leaves nothing; a start that fails leaves
        the row in ``error``; a cancellation leaves nothing. Raises BadRequest, AlreadyExists, NotFound (image), and what starting raises.
        """
        services = self._services
        await check_new(services, new)
        defaults = self.defaults()
        report("resolve_image", new.image or defaults.image)
        ground = await check_host(services, new.image or defaults.image, report, credentials=new.credentials)
        record = reserve(services, new, ground.bootable.image, resolve_spec(new, defaults))
        on_reserved(record)
        report("reserve_vm", f"allocated {record.name}")
        if not new.start:
            return record
        try:
            return await self._start(record.id, ground, wait_booted=new.wait_booted, report=report)
        except asyncio.CancelledError:
            await _finish_anyway(self.delete(record.id, report=silent))
            raise

    async def start(self, ref: str, *, wait_booted: bool, report: Report) -> VMRecord:
        """Start a machine; success when it already runs. A failure leaves the row in ``error`` with its cause."""
        return await self._start(ref, None, wait_booted=wait_booted, report=report)

    async def stop(self, ref: str, *, timeout: float, report: Report) -> VMRecord:
        """Ask the guest to power off, wait at most ``timeout`` seconds, flush and end the VMM; success when it does not run."""
        if not 0 <= timeout <= 3600:
            raise BadRequest(f"timeout must be between 0 and 3600 seconds, not {timeout:g}")
        async with self._locked(ref) as record:
            return await self._stop_locked(record, timeout, report, "by `vm stop`")

    async def restart(self, ref: str, *, wait_booted: bool, report: Report) -> VMRecord:
        """Stop and start under one lock."""
        async with self._locked(ref) as found:
            stopped = await self._stop_locked(found, _STOP_TIMEOUT, report, "by `vm restart`", then_start=True)
            _end_if_cancelled()
            record = await self._start_locked(stopped, report)
        return await self._wait_booted(record, report) if wait_booted else record

    async def kill(self, ref: str, *, signal: str, report: Report) -> VMRecord:
        """Signal the VMM (default TERM at the callers), wait at most 30 s, then end it; for a machine that hangs. What holds the machine is interrupted."""
        name = parse_signal(signal)
        context = EndContext(vm_id=self.find(ref).id, signal=name, reason=f"by `vm kill` with SIG{name}")
        async with self._seized(context.vm_id, name, "killed") as record:
            return await self._end(record, kill_procedure(self._services), context, report) if self._ran(record) else record

    async def delete(self, ref: str, *, report: Report, unless_running: bool = False) -> VMRecord:
        """Remove the machine and everything it ever had; returns the record as it was. What holds the machine is interrupted, its VMM ended at once.

        ``unless_running`` (prune) waits instead, and raises NotStopped when it runs. On a full disk the machine's disks go before anything is written down.
        """
        async with self._locked(ref) if unless_running else self._seized(ref, "KILL", "deleted") as record:
            if unless_running and self._ran(record):
                raise NotStopped(f"{record.name} is running by now and was left alone", hint=f"banger vm delete {record.name} removes it all the same")
            try:
                await self._delete_locked(record, report)
            except (StoreError, ExceptionGroup) as error:
                if not self._services.database.is_full(error):
                    raise
                log.warning("the disk is full: the machine's disks are removed first", extra={"vm_id": record.id, "error": str(error)})
                await end_machine(self._services, record.id)
                await remove_directory(self._services, record.id)
                await self._delete_locked(record, report)
            return record

    async def change(self, ref: str, change: Change, *, report: Report) -> VMRecord:
        """Change what a machine is; success when it is so already. One that runs can change its network, if it has a card, and when it is stopped by itself.

        Raises BadRequest, NotStopped, NoSpace, CommandFailed, VmmError.
        """
        check_change(change)
        services = self._services
        check_limits_hold(services, change.rates)
        async with self._locked(ref) as record:
            spec = changed_spec(record, change)
            if spec == record.spec:
                return record
            if self._ran(record):
                live = services.live.get(record.id)
                await check_live_change(services, record, spec, live.machine if live is not None else None)
            try:
                await services.runner.perform(
                    set_procedure(services),
                    SetContext(vm_id=record.id, uid=disk_owner(record), spec=spec),
                    vm_id=record.id,
                    report=report,
                    finish=lambda _context, _scratch: self._update(record.id, lambda current: respecified(current, spec)),
                    fail=lambda error: self._update(record.id, lambda current: with_error(current, error)),
                )
            except (BangerError, OSError, ExceptionGroup):
                if spec.nat != record.spec.nat:
                    await keep_network(services, record.id)
                raise
            self._auto_stop.note_change(changed := self.find(record.id))
            return changed

    async def collect_garbage(self, *, dry_run: bool, report: Report) -> tuple[Leftover, ...]:
        """Find what no machine needs any more and, unless ``dry_run``, remove it. One that resists says so and does not keep the others."""
        return await collect_garbage(self._services, dry_run=dry_run, report=report)

    # -- use ------------------------------------------------------------------------------------------------------------------------------------------

    def touch(self, ref: str) -> VMRecord:
        """Note that somebody uses the machine now: its idle time begins anew."""
        record = self.find(ref)
        self._auto_stop.activity.touch(record)
        self._services.vms.touch(record.id, time.time())
        return self.find(record.id)

    def note_use(self, vm_id: str) -> None:
        """As ``touch``, for who does something else with the machine: a full disk is no reason to refuse that."""
        self._auto_stop.activity.touch(self.find(vm_id))
        self._store_use(vm_id)

    def _store_use(self, vm_id: str) -> None:
        try:
            self._services.vms.touch(vm_id, time.time())
        except BangerError as error:
            log.warning("the last use of a machine could not be stored", extra={"vm_id": vm_id, "error": str(error)})

    def open_stream(self, ref: str) -> Callable[[], None]:
        """A stream into the machine is open until what is returned is called; meanwhile it is not idle."""
        record = self.find(ref)
        close = self._auto_stop.activity.open(record)

        def closed() -> None:
            close()
            self._store_use(record.id)

        return closed

    # -- the daemon's life -----------------------------------------------------------------------------------------------------------------------

    async def recover(self) -> None:
        """Settle the journal, adopt or demote running rows, delete machines whose lease has no holder any more; then watch over idle ones."""
        await recover(self._services, self._journal)
        await asyncio.gather(*(self._delete_unheld(record) for record in self.list() if record.remove))
        await self._services.capabilities.resume(self.list())
        await log_leftovers(self._services)
        self._auto_stop.start()

    async def close(self) -> None:
        """Drop the agents' channels; the machines keep running."""
        await self._auto_stop.close()
        await self._services.capabilities.close()
        lives = list(self._services.live.values())
        watchers = [live.watcher for live in lives if live.watcher is not None]
        for watcher in watchers:
            watcher.cancel()
        await asyncio.gather(*watchers, return_exceptions=True)
        for live in lives:
            if live.agent is not None:
                await live.agent.close()
        self._services.live.clear()

    async def _delete_unheld(self, record: VMRecord) -> None:
        log.info("the lease has no holder any more", extra={"vm_id": record.id, "vm_name": record.name})
        try:
            await self.delete(record.id, report=silent)
        except (BangerError, ExceptionGroup):
            log.exception("an unheld machine could not be deleted", extra={"vm_id": record.id})

    # -- under the lock --------------------------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _locked(self, ref: str) -> AsyncIterator[VMRecord]:
        """Hold the machine's lock; yields the record as it is once the lock is held."""
        vm_id = self.find(ref).id
        async with self._services.locks.hold(vm_id):
            yield self.find(vm_id)

    @asynccontextmanager
    async def _seized(self, ref: str, signal: str, done: str) -> AsyncIterator[VMRecord]:
        """As ``_locked``, but the VMM is signalled before we wait, and who starts or stops the machine is told that it was ``done`` by another command."""
        found = self.find(ref)
        locks = self._services.locks
        if locks.held(found.id):
            await signal_vmm(self._services, found.id, signal)
        async with AsyncExitStack() as turn:
            with self._services.runner.interrupts.pending(found.id, f"{found.name} was {done} by another command meanwhile"):
                await turn.enter_async_context(locks.hold(found.id))
            yield self.find(found.id)

    async def _start(self, ref: str, ground: Ground | None, *, wait_booted: bool, report: Report) -> VMRecord:
        async with self._locked(ref) as found:
            record = await self._start_locked(found, report, ground)
        return await self._wait_booted(record, report) if wait_booted else record

    async def _start_locked(self, record: VMRecord, report: Report, ground: Ground | None = None) -> VMRecord:
        """``ground``: what this operation has found out already."""
        services = self._services
        if services.alive(record):
            log.info("vm already running", extra={"vm_id": record.id, "vm_name": record.name})
            return record
        ground = ground or await services.runner.interrupts.run(record.id, check_host(services, record.image_id, report))
        await services.capabilities.check_publish(record.spec.publish)
        services.image_table.touch(record.image_id, time.time())
        await services.runner.perform(
            start_procedure(services, ground),
            start_context(services, record),
            vm_id=record.id,
            report=report,
            finish=lambda _context, scratch: self._update(record.id, lambda current: started(current, scratch)),
            fail=lambda error: self._update(record.id, lambda current: failed_start(current, error)),
        )
        watch(services, record.id)
        running = self.find(record.id)
        self._auto_stop.activity.note_start(running)
        return running

    async def _delete_locked(self, record: VMRecord, report: Report) -> None:
        services = self._services
        await services.runner.perform(
            delete_procedure(services),
            EndContext(vm_id=record.id),
            vm_id=record.id,
            report=report,
            finish=lambda _context, _scratch: services.vms.delete(record.id),
            fail=lambda error: self._update(record.id, lambda current: failed_end(services, current, error)),
        )

    async def _stop_if_due(self, vm_id: str, reason: str, still_due: Callable[[VMRecord], bool]) -> None:
        async with self._locked(vm_id) as record:
            if self._ran(record) and still_due(record):
                await self._carry_out("vm.auto_stop", record.name, lambda report: self._stop_locked(record, _STOP_TIMEOUT, report, reason))

    async def _stop_locked(self, record: VMRecord, timeout: float, report: Report, reason: str, *, then_start: bool = False) -> VMRecord:
        context = EndContext(vm_id=record.id, timeout=timeout, reason=reason, then_start=then_start)
        return await self._end(record, stop_procedure(self._services), context, report) if self._ran(record) else record

    def _ran(self, record: VMRecord) -> bool:
        return record.state is VMState.RUNNING or record.id in self._services.live

    async def _end(self, record: VMRecord, procedure: Procedure[EndContext, EndScratch], context: EndContext, report: Report) -> VMRecord:
        services = self._services
        await services.runner.perform(
            procedure,
            context,
            vm_id=record.id,
            report=report,
            finish=lambda done, _scratch: self._update(record.id, stopped_because(done)),
            fail=lambda error: self._update(record.id, lambda current: failed_end(services, current, error)),
        )
        return self.find(record.id)

    def _update(self, vm_id: str, change: Callable[[VMRecord], VMRecord]) -> None:
        self._services.vms.update(vm_id, change)

    async def _wait_booted(self, record: VMRecord, report: Report) -> VMRecord:
        """Wait outside the lock until the image's own init is up: a guest that never says so is no reason to end the machine."""
        report("wait_for_boot")
        try:
            async with asyncio.timeout(_BOOT_DEADLINE):
                await self.agent(record.id).wait_booted()
        except TimeoutError:
            message = f"{record.name}: the guest's init did not report within {_BOOT_DEADLINE:g} s that it is up; the machine keeps running"
            raise GuestTimeout(message, hint=f"banger vm logs {record.name}; banger vm exec {record.name} -- systemctl list-jobs", vm=record.name) from None
        self._update(record.id, lambda current: replace(current, runtime=replace(current.runtime, booted=True)))
        return self.find(record.id)


def _end_if_cancelled() -> None:
    """Raises the cancellation that came too late for what was done last, before something else is begun."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


async def _finish_anyway(work: Coroutine[object, object, object]) -> None:
    """Run to the end even though the surrounding task is being cancelled."""
    task = asyncio.ensure_future(work)
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(task)
    if error := task.exception():
        log.warning("clean-up after a cancellation failed", extra={"error": str(error)})
