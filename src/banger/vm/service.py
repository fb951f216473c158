"""Machines: every verb of a machine's life, under its lock."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from ..guest.agent import Agent, Hello
from ..host import facts
from ..host.paths import Layout
from ..image.service import ImageService
from ..model.config import Config, size_defaults
from ..model.errors import BadRequest, BangerError, GuestError, GuestTimeout, NotRunning, NotStopped
from ..model.limits import SizeDefaults, defaults_for_host
from ..model.progress import Report, silent
from ..model.records import VMRecord, VMState
from ..net.protocol import Network
from ..storage.protocol import RootDisk
from ..store import Database, ImageTable, Journal, VMTable
from ..vmm.protocol import Vmm
from .autostop import AutoStop
from .capabilities import Capabilities, Finding
from .change import Change, SetContext, changed_spec, check_change, check_present, respecified, set_procedure
from .context import Services
from .create import NewVM, check_new, reserve, resolve_spec
from .failure import failed_end, failed_start, with_error
from .handles import HandleCache
from .leftovers import Leftover, collect_garbage, log_leftovers
from .observe import Health, Observer, Port, Usage, health, ports
from .recover import recover
from .start import check_host, disk_usage, start_context, start_procedure, started
from .steps import Procedure, StepRunner
from .stop import EndContext, EndScratch, delete_procedure, kill_procedure, parse_signal, stop_procedure, stopped_because
from .watch import watch
from .work_disk import WorkDisk

log = logging.getLogger(__name__)

_BOOT_DEADLINE = 180.0
_STOP_TIMEOUT = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class VMStatus:
    """A record and what the host shows right now. Sizes are bytes."""

    record: VMRecord
    alive: bool
    pid: int | None
    directory: Path
    console_log: Path
    vmm_log: Path
    overlay_allocated_bytes: int
    work_allocated_bytes: int
    hello: Hello | None


class Machines:
    """The service behind every ``banger vm`` command.

    Verbs that meet on one machine take turns in the order in which they came; a create has the machine from the moment its name is reserved. So a stop,
    kill or deletion during a start waits for it and then does its work; of two deletions the second finds nothing (NotFound); a prune during a create
    finds a machine that runs, and leaves it alone (NotStopped). Who waits can be cancelled. Verbs on different machines do not wait for each other.
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
    ) -> None:
        """``guest_deadline``: seconds that a guest has from launch to hello, and again to ready. ``runner_type`` is where tests interrupt steps.

        ``capabilities``: what machines have beyond a VMM and a root disk; the work disk when not given.
        """
        self._journal = Journal(database)
        self._services = Services(
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
        self.config = config or Config()
        self._observer = Observer(self._services)
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
        bootable, _probe = await check_host(services, new.image or defaults.image, report)
        record = reserve(services, new, bootable.image, resolve_spec(new, defaults))
        on_reserved(record)
        report("reserve_vm", f"allocated {record.name}")
        if not new.start:
            return record
        try:
            return await self.start(record.id, wait_booted=new.wait_booted, report=report)
        except asyncio.CancelledError:
            await _finish_anyway(self.delete(record.id, report=silent))
            raise

    async def start(self, ref: str, *, wait_booted: bool, report: Report) -> VMRecord:
        """Start a machine; success when it already runs. A failure leaves the row in ``error`` with its cause."""
        async with self._locked(ref) as found:
            record = await self._start_locked(found, report)
        return await self._wait_booted(record, report) if wait_booted else record

    async def stop(self, ref: str, *, timeout: float, report: Report) -> VMRecord:
        """Ask the guest to power off, wait at most ``timeout`` seconds, flush and end the VMM; success when it does not run."""
        if not 0 <= timeout <= 3600:
            raise BadRequest(f"timeout must be between 0 and 3600 seconds, not {timeout:g}")
        async with self._locked(ref) as record:
            return await self._stop_locked(record, timeout, report, "by `vm stop`")

    async def restart(self, ref: str, *, wait_booted: bool, report: Report) -> VMRecord:
        """Stop and start under one lock."""
        async with self._locked(ref) as found:
            record = await self._start_locked(await self._stop_locked(found, _STOP_TIMEOUT, report, "by `vm restart`"), report)
        return await self._wait_booted(record, report) if wait_booted else record

    async def kill(self, ref: str, *, signal: str, report: Report) -> VMRecord:
        """Signal the VMM (default TERM at the callers), wait at most 30 s, then end it; for a machine that hangs."""
        name = parse_signal(signal)
        context = EndContext(vm_id=self.find(ref).id, signal=name, reason=f"by `vm kill` with SIG{name}")
        async with self._locked(context.vm_id) as record:
            return await self._end(record, kill_procedure(self._services), context, report) if self._ran(record) else record

    async def delete(self, ref: str, *, report: Report, unless_running: bool = False) -> VMRecord:
        """Remove the machine and everything it ever had; returns the record as it was. ``unless_running``: raises NotStopped when it runs (prune)."""
        services = self._services
        async with self._locked(ref) as record:
            if unless_running and self._ran(record):
                raise NotStopped(f"{record.name} is running by now and was left alone", hint=f"banger vm delete {record.name} removes it all the same")
            await services.runner.perform(
                delete_procedure(services),
                EndContext(vm_id=record.id),
                vm_id=record.id,
                report=report,
                finish=lambda _context, _scratch: services.vms.delete(record.id),
                fail=lambda error: self._update(record.id, lambda current: failed_end(services, current, error)),
            )
            return record

    async def change(self, ref: str, change: Change, *, report: Report) -> VMRecord:
        """Change what a stopped machine is made of; success when it is so already. Raises BadRequest, NotStopped, NoSpace, CommandFailed."""
        check_change(change)
        services = self._services
        async with self._locked(ref) as record:
            spec = changed_spec(record, change)
            if spec == record.spec:
                return record
            await check_present(services, record, spec, runs=self._ran(record))
            await services.runner.perform(
                set_procedure(services),
                SetContext(vm_id=record.id, uid=record.runtime.vmm_uid, spec=spec),
                vm_id=record.id,
                report=report,
                finish=lambda _context, _scratch: self._update(record.id, lambda current: respecified(current, spec)),
                fail=lambda error: self._update(record.id, lambda current: with_error(current, error)),
            )
            return self.find(record.id)

    async def collect_garbage(self, *, dry_run: bool, report: Report) -> tuple[Leftover, ...]:
        """Find what no machine needs any more and, unless ``dry_run``, remove it. One that resists says so and does not keep the others."""
        return await collect_garbage(self._services, dry_run=dry_run, report=report)

    # -- looks ---------------------------------------------------------------------------------------------------------------------------------

    def list(self) -> tuple[VMRecord, ...]:
        """All machines, oldest first."""
        return self._services.vms.list()

    def find(self, ref: str) -> VMRecord:
        """The machine meant by a name, id or unique id prefix. Raises NotFound or BadRequest."""
        return self._services.vms.find(ref)

    def status(self, ref: str) -> VMStatus:
        """The record and what the host shows."""
        record = self.find(ref)
        files = self._services.layout.vm(record.id)
        live = self._services.live.get(record.id)
        alive = self._services.alive(record)
        overlay, work = disk_usage(files)
        return VMStatus(
            record=record,
            alive=alive,
            pid=live.machine.process.pid if live is not None and alive else None,
            directory=files.root,
            console_log=files.console_log,
            vmm_log=files.vmm_log,
            overlay_allocated_bytes=overlay,
            work_allocated_bytes=work,
            hello=live.agent.hello if live is not None and live.agent is not None else None,
        )

    def agent(self, ref: str) -> Agent:
        """The agent of a running machine. Raises NotRunning, or GuestError while its channel is broken."""
        record = self.find(ref)
        if not self._services.alive(record):
            raise NotRunning(f"{record.name} is not running (state {record.state})", hint=f"banger vm start {record.name}")
        agent = self._services.live[record.id].agent
        if agent is None or agent.closed:
            raise GuestError(f"the agent in {record.name} does not answer", hint=f"banger vm logs {record.name}; banger vm restart {record.name}")
        return agent

    async def usage(self, ref: str) -> Usage:
        """What the machine uses right now; its guest is asked if it runs."""
        return await self._observer.usage(self.find(ref))

    async def health(self, ref: str) -> Health:
        """Whether it runs and answers: not healthy when it does not run; raises GuestError or GuestTimeout when it runs and does not answer."""
        record = self.find(ref)
        if not self._services.alive(record):
            return Health(name=record.name, alive=False)
        return await health(self.agent(record.id), record.name)

    async def ports(self, ref: str) -> tuple[Port, ...]:
        """What waits for connections in a running machine. Raises NotRunning, GuestError, GuestTimeout."""
        record = self.find(ref)
        return await ports(self.agent(record.id), record.name)

    def touch(self, ref: str) -> VMRecord:
        """Note that somebody uses the machine now: its idle time begins anew."""
        record = self.find(ref)
        self._auto_stop.activity.touch(record)
        self._services.vms.touch(record.id, time.time())
        return self.find(record.id)

    def open_stream(self, ref: str) -> Callable[[], None]:
        """A stream into the machine is open until what is returned is called; meanwhile it is not idle."""
        record = self.find(ref)
        close = self._auto_stop.activity.open(record)

        def closed() -> None:
            close()
            try:
                self._services.vms.touch(record.id, time.time())
            except BangerError as error:
                log.warning("the last use of a machine could not be stored", extra={"vm_id": record.id, "error": str(error)})

        return closed

    def log_file(self, ref: str, which: str) -> Path:
        """Path of the ``console`` or ``vmm`` log."""
        files = self._services.layout.vm(self.find(ref).id)
        return files.vmm_log if which == "vmm" else files.console_log

    async def check_host(self) -> tuple[Finding, ...]:
        """What the capabilities find on this host, for ``doctor``."""
        return await self._services.capabilities.check_host()

    def defaults(self) -> SizeDefaults:
        """Sizes that omitted options take on this host."""
        return size_defaults(self.config, defaults_for_host(facts.cpu_count(), facts.memory_bytes()))

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

    async def _start_locked(self, record: VMRecord, report: Report) -> VMRecord:
        services = self._services
        if services.alive(record):
            log.info("vm already running", extra={"vm_id": record.id, "vm_name": record.name})
            return record
        await check_host(services, record.image_name, report)
        await services.capabilities.check_publish(record.spec.publish)
        await services.runner.perform(
            start_procedure(services),
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

    async def _stop_if_due(self, vm_id: str, reason: str, still_due: Callable[[VMRecord], bool]) -> None:
        async with self._locked(vm_id) as record:
            if self._ran(record) and still_due(record):
                await self._stop_locked(record, _STOP_TIMEOUT, silent, reason)

    async def _stop_locked(self, record: VMRecord, timeout: float, report: Report, reason: str) -> VMRecord:
        context = EndContext(vm_id=record.id, timeout=timeout, reason=reason)
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


async def _finish_anyway(work: Coroutine[object, object, object]) -> None:
    """Run to the end even though the surrounding task is being cancelled."""
    task = asyncio.ensure_future(work)
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(task)
    if error := task.exception():
        log.warning("clean-up after a cancellation failed", extra={"error": str(error)})
