"""Starting a machine: the table of steps from a row to a ready guest."""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import Awaitable
from dataclasses import dataclass, replace
from typing import TypeVar

from ..guest.agent import Agent, Configuration
from ..host import facts
from ..host.files import allocated_bytes, tail
from ..host.paths import VMLayout, private_directory
from ..host.process import wait_exit
from ..image.service import Bootable
from ..model.errors import BangerError, ChannelLost, GuestTimeout, NotFound, VmmError
from ..model.limits import FIRST_VMM_UID, LAST_VMM_UID
from ..model.machine import Disk, MachineConfig
from ..model.progress import Report
from ..model.records import VMHandles, VMRecord, VMState
from ..net.protocol import Attachment
from ..vmm.protocol import BoundsMachines, Machine, ShowsProcessors, Vmm, VmmProbe
from .bounds import check_limits_hold, limits_of, release_bounds
from .capabilities import GuestPart
from .cleanup import end_machine
from .context import Live, Services, disk_owner
from .failure import end_of_init
from .network import attach_network, detach_network
from .steps import Procedure, Step

Result = TypeVar("Result")

_CONSOLE_TAIL = 1500
_DEATH_SECONDS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StartContext:
    """What undoing a start needs to know; all paths follow from the id."""

    vm_id: str
    uid: int
    """Owner of its files; -1 = we ourselves."""
    had_overlay: bool
    """The system overlay existed before: undoing must not remove it."""
    had_work_disk: bool


@dataclass(slots=True)
class StartScratch:
    """What one run of the steps builds up."""

    ground: Ground | None
    record: VMRecord | None = None
    disks: tuple[Disk, ...] = ()
    attachment: Attachment | None = None
    config: MachineConfig | None = None
    machine: Machine | None = None
    agent: Agent | None = None
    launched_at: float = 0.0
    ready_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Ground:
    """What a machine is started from, found out once per operation and handed down."""

    bootable: Bootable
    probe: VmmProbe


async def check_host(services: Services, image: str, report: Report, *, credentials: str = "") -> Ground:
    """The image of that id, name or reference with its kernel (got first when it is not here), and what the VMM makes of it here.

    ``credentials``: path of the caller's logins for registries.

    Raises NotFound, what pulling raises, and VmmError when the VMM cannot run.
    """
    bootable = await services.images.ensure(image, report, credentials=credentials)
    probe = await services.vmm.probe(bootable.kernel_file, bootable.initramfs)
    if not probe.usable:
        raise VmmError(f"{services.vmm.name}: {probe.note}", hint=probe.hint)
    return Ground(bootable, probe)


def start_context(services: Services, record: VMRecord) -> StartContext:
    """The context of a start of this machine, with everything chosen that its steps will use."""
    files = services.layout.vm(record.id)
    return StartContext(vm_id=record.id, uid=disk_owner(record), had_overlay=files.overlay_disk.exists(), had_work_disk=files.work_disk.exists())


def start_procedure(services: Services, ground: Ground | None = None) -> Procedure[StartContext, StartScratch]:
    """The start of a machine as a table; recovered backwards, for which nobody needs ``ground``."""
    steps = _StartSteps(services)
    return Procedure(
        kind="vm.start",
        recovery="back",
        context_type=StartContext,
        new_scratch=lambda: StartScratch(ground=ground),
        interruptible=True,
        steps=(
            Step("preflight", steps.preflight),
            Step("system_overlay", steps.prepare_root, steps.release_root),
            Step("prepare_host_features", steps.prepare_capabilities, steps.clean_up_capabilities),
            Step("network", steps.attach_network, steps.detach_network),
            Step("machine_config", steps.build_config),
            Step("vmm_launch", steps.launch, steps.end_vmm),
            Step("persist_handles", steps.persist_handles, steps.clear_handles),
            Step("wait_for_guest", steps.wait_for_guest),
            Step("configure_guest", steps.configure_guest),
            Step("post_start_features", steps.act_after_start, steps.clean_up_capabilities),
        ),
    )


def started(record: VMRecord, scratch: StartScratch) -> VMRecord:
    """The record of a machine whose start has succeeded."""
    kernel = _need(scratch.ground).bootable.kernel
    runtime = replace(
        record.runtime,
        last_error="",
        accelerator=_need(scratch.ground).probe.accelerator,
        network=_need(scratch.attachment).mode,
        booted=False,
        ready_seconds=round(scratch.ready_seconds, 3),
        kernel_name=kernel.name,
        kernel_version=kernel.version,
        kernel_digest=kernel.digest,
        started_at=(now := time.time()),
    )
    return replace(record, state=VMState.RUNNING, runtime=runtime, touched_at=now)


def _need(value: Result | None) -> Result:
    """A value that an earlier step has set."""
    if value is None:
        raise AssertionError("start steps ran out of order")
    return value


class _StartSteps:
    def __init__(self, services: Services) -> None:
        self._services = services

    def _files(self, context: StartContext) -> VMLayout:
        return self._services.layout.vm(context.vm_id)

    async def preflight(self, context: StartContext, scratch: StartScratch, report: Report) -> StartContext:
        record = self._services.vms.get(context.vm_id)
        if record is None:
            raise NotFound(f"the machine {context.vm_id} is gone")
        scratch.record = record
        if note := _need(scratch.ground).probe.note:
            report("preflight", note, warning=True)
        if record.runtime.ready_seconds and not (context.had_overlay and context.had_work_disk):
            report("preflight", f"a disk of {record.name} has been removed from {self._files(context).root}: an empty one takes its place", warning=True)
        check_limits_hold(self._services, record.spec)
        await self._services.capabilities.check_start(record)
        private_directory(self._services.layout.vms)
        private_directory(self._files(context).root)
        return context

    async def prepare_root(self, context: StartContext, scratch: StartScratch, report: Report) -> StartContext:
        spec = _need(scratch.record).spec
        scratch.disks += await self._services.root_disk.prepare(self._files(context), _need(scratch.ground).bootable.rootfs, spec, context.uid)
        return context

    async def release_root(self, context: StartContext) -> None:
        if not context.had_overlay:
            await self._services.root_disk.release(self._files(context))

    async def prepare_capabilities(self, context: StartContext, scratch: StartScratch, report: Report) -> StartContext:
        await self._services.capabilities.prepare_host(_need(scratch.record))
        return context

    async def clean_up_capabilities(self, context: StartContext) -> None:
        await self._services.capabilities.clean_up(context.vm_id)

    async def attach_network(self, context: StartContext, scratch: StartScratch, report: Report) -> StartContext:
        scratch.attachment = attachment = await attach_network(self._services, _need(scratch.record))
        if attachment.warning:
            report("network", attachment.warning, warning=True)
        return context

    async def detach_network(self, context: StartContext) -> None:
        await detach_network(self._services, context.vm_id)

    async def build_config(self, context: StartContext, scratch: StartScratch, report: Report) -> StartContext:
        record, bootable = _need(scratch.record), _need(scratch.ground).bootable
        scratch.config = MachineConfig(
            vm_id=context.vm_id,
            vm_dir=self._files(context).root,
            vcpu_count=record.spec.vcpu_count,
            memory_mib=record.spec.memory_mib,
            kernel=bootable.kernel_file,
            initramfs=bootable.initramfs,
            disks=scratch.disks + self._services.capabilities.contribute_machine(record),
            card=_need(scratch.attachment).card,
            uid=record.runtime.vmm_uid,
            limits=limits_of(self._services, record.spec, _need(scratch.ground).probe.accelerator),
        )
        return context

    async def launch(self, context: StartContext, scratch: StartScratch, report: Report) -> StartContext:
        scratch.launched_at = time.monotonic()
        scratch.machine = machine = await self._services.vmm.launch(_need(scratch.config))
        self._services.live[context.vm_id] = Live(machine)
        return context

    async def end_vmm(self, context: StartContext) -> None:
        await end_machine(self._services, context.vm_id)
        await release_bounds(self._services, context.vm_id)
        self._services.vmm.remove_sockets(self._files(context).root)

    async def persist_handles(self, context: StartContext, scratch: StartScratch, report: Report) -> StartContext:
        helper = _need(scratch.attachment).helper
        self._services.handles.put(context.vm_id, VMHandles(boot_id=facts.boot_id(), vmm=_need(scratch.machine).process, network_helper=helper))
        return context

    async def clear_handles(self, context: StartContext) -> None:
        self._services.handles.clear(context.vm_id)

    async def wait_for_guest(self, context: StartContext, scratch: StartScratch, report: Report) -> StartContext:
        scratch.agent = agent = await self._while_alive(context, scratch, self._greet(_need(scratch.machine)), "say hello")
        self._services.live[context.vm_id].agent = agent
        return context

    async def _greet(self, machine: Machine) -> Agent:
        return await Agent.greet(await machine.connect_agent(), deadline=self._services.guest_deadline)

    async def configure_guest(self, context: StartContext, scratch: StartScratch, report: Report) -> StartContext:
        record = _need(scratch.record)
        part = await self._services.capabilities.contribute_guest(record)
        configuration = _configuration(record, self._services.root_disk.root_mode, _need(scratch.attachment), part)
        await self._while_alive(context, scratch, _need(scratch.agent).configure(configuration), "become ready")
        scratch.ready_seconds = time.monotonic() - scratch.launched_at
        return context

    async def act_after_start(self, context: StartContext, scratch: StartScratch, report: Report) -> StartContext:
        await self._services.capabilities.post_start(_need(scratch.record), _need(scratch.agent))
        return context

    async def _while_alive(self, context: StartContext, scratch: StartScratch, waiting: Awaitable[Result], what: str) -> Result:
        """The result of ``waiting``, or the reason why it cannot come: the VMM died, or the time is over; with the end of the console."""
        record = _need(scratch.record)
        task = asyncio.ensure_future(waiting)
        death = asyncio.ensure_future(wait_exit(_need(scratch.machine).process))
        try:
            async with asyncio.timeout(self._services.guest_deadline):
                await asyncio.wait((task, death), return_when=asyncio.FIRST_COMPLETED)
            if death.done() and not (task.done() and task.exception() is None):
                raise self._explain(context, record, VmmError, f"the VMM ended before the guest could {what}")
            return task.result()
        except (TimeoutError, GuestTimeout):
            message = f"the guest did not {what} within {self._services.guest_deadline:g} s{await _whereabouts(_need(scratch.machine))}"
            raise self._explain(context, record, GuestTimeout, message) from None
        except (ChannelLost, VmmError) as error:
            # A VMM that ends closes its sockets a moment before the process is gone.
            await asyncio.wait((death,), timeout=_DEATH_SECONDS)
            if not death.done():
                raise
            raise self._explain(context, record, VmmError, f"the VMM ended before the guest could {what}") from error
        finally:
            for waiter in (task, death):
                waiter.cancel()
            await asyncio.gather(task, death, return_exceptions=True)

    def _explain(self, context: StartContext, record: VMRecord, kind: type[BangerError], message: str) -> BangerError:
        files = self._files(context)
        if why := end_of_init(tail(files.console_log, _CONSOLE_TAIL)):
            message = f"{why}: {message}"
        ends = [
            f"{name} ends with:\n{text}"
            for name, path in (("VMM log", files.vmm_log), ("console", files.console_log))
            if (text := tail(path, _CONSOLE_TAIL).strip())
        ]
        return kind("\n".join((f"{record.name}: {message}", *ends)), hint=_where_to_look(record), vm=record.name)


async def _whereabouts(machine: Machine) -> str:
    """What the guest's CPUs are at, as the end of a sentence: of a guest that hangs, the console alone does not tell."""
    if not isinstance(machine, ShowsProcessors):
        return ""
    try:
        places = await machine.processors()
    except VmmError as error:
        return f"; its VMM does not answer either: {error}"
    return f"; its CPUs: {places}" if places else ""


def _where_to_look(record: VMRecord) -> str:
    return "run it without --rm to keep the machine and its logs" if record.remove else f"banger vm logs {record.name}"


def _configuration(record: VMRecord, root_mode: int, attachment: Attachment, part: GuestPart) -> Configuration:
    return Configuration(
        hostname=record.name,
        root_mode=root_mode,
        work_disk=part.work_disk,
        card=attachment.card,
        files=part.files,
        time_ns=time.time_ns(),
        entropy=secrets.token_bytes(64),
    )


def disk_usage(files: VMLayout) -> tuple[int, int]:
    """Bytes that the system overlay and the work disk really take."""
    return allocated_bytes(files.overlay_disk), allocated_bytes(files.work_disk)


def choose_uid(vmm: Vmm, used: frozenset[int]) -> int:
    """An unprivileged uid for a new machine's VMM (random, so that instances side by side do not share one), or -1 where it cannot have one of its own."""
    if not (vmm.own_uids if isinstance(vmm, BoundsMachines) else os.geteuid() == 0):
        return -1
    while True:
        uid = FIRST_VMM_UID + secrets.randbelow(LAST_VMM_UID - FIRST_VMM_UID)
        if uid not in used:
            return uid
