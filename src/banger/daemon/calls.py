"""What each route does: from a decoded request to the services and back to a reply of the contract."""

from __future__ import annotations

import asyncio
import codecs
import os
from pathlib import Path
from typing import Any, Final

from ..api import types as t
from ..api.stats_types import VMStats
from ..guest.frames import Operation as GuestOperation
from ..guest.messages import exec_request
from ..host.files import open_regular
from ..image.run_config import program
from ..model.config import settings
from ..model.errors import BadRequest
from ..model.records import VMRecord
from ..vm.change import Change
from ..vm.create import NewVM
from .access import published_reply, ssh_show, vm_connect, vm_forward, with_endpoints
from .call import Answer, Call, Work, absolute_path
from .context import Context
from .file_calls import FILE_ANSWERS
from .image_calls import IMAGE_ANSWERS, IMAGE_WORKS
from .job_calls import JOB_ANSWERS
from .kernel_calls import KERNEL_ANSWERS, KERNEL_WORKS
from .leases import LeaseHold
from .operations import Operation
from .replies import config_reply, health_reply, ports_reply, stats_reply
from .tickets import stream_ticket
from .workspace_calls import WORKSPACE_ANSWERS

MAX_LOG_CHUNK: Final = 256 * 1024


# -- machines --------------------------------------------------------------------------------------------------------------------------------------


async def vm_list(context: Context, call: Call) -> tuple[VMRecord, ...]:
    return context.machines.list()


async def vm_show(context: Context, call: Call) -> t.VMDetail:
    status = context.machines.status(call.path["ref"])
    return t.VMDetail(
        record=status.record,
        alive=status.alive,
        pid=status.pid,
        directory=str(status.directory),
        console_log=str(status.console_log),
        vmm_log=str(status.vmm_log),
        overlay_allocated_bytes=status.overlay_allocated_bytes,
        work_allocated_bytes=status.work_allocated_bytes,
        guest_kernel=status.hello.kernel if status.hello else "",
        guest_program=status.hello.program if status.hello else "",
        published=published_reply(context, status.record),
    )


async def vm_create(context: Context, call: Call, operation: Operation) -> VMRecord:
    body: t.CreateVM = call.body
    lease = context.leases.find(body.lease) if body.lease else None

    def on_reserved(record: VMRecord) -> None:
        # From here on there is something that outlives the caller's connection; a lease takes care of it, or its owner does.
        operation.ends_with_followers = False
        operation.target = record.name
        if lease is not None:
            lease.vms.add(record.id)

    new = NewVM(
        name=body.name,
        image=body.image,
        vcpu_count=body.vcpu_count,
        memory_mib=body.memory_mib,
        system_overlay_bytes=body.system_overlay_bytes,
        work_disk_bytes=body.work_disk_bytes,
        nat=body.nat,
        publish=body.publish,
        ttl_seconds=body.ttl,
        idle_seconds=body.idle,
        autostart=body.autostart,
        rates=body.rates,
        start=body.start,
        wait_booted=body.wait == "booted",
        remove=lease is not None,
        credentials=str(absolute_path(body.credentials)) if body.credentials else "",
    )
    if lease is None:
        return await context.machines.create(new, operation.report, on_reserved)
    lease.creations.add(operation)
    try:
        return await context.machines.create(new, operation.report, on_reserved)
    finally:
        lease.creations.discard(operation)


async def vm_start(context: Context, call: Call, operation: Operation) -> VMRecord:
    body: t.StartVM = call.body
    return await context.machines.start(call.path["ref"], wait_booted=body.wait == "booted", report=operation.report)


async def vm_stop(context: Context, call: Call, operation: Operation) -> VMRecord:
    body: t.StopVM = call.body
    return await context.machines.stop(call.path["ref"], timeout=body.timeout, report=operation.report)


async def vm_restart(context: Context, call: Call, operation: Operation) -> VMRecord:
    body: t.StartVM = call.body
    return await context.machines.restart(call.path["ref"], wait_booted=body.wait == "booted", report=operation.report)


async def vm_kill(context: Context, call: Call, operation: Operation) -> VMRecord:
    body: t.KillVM = call.body
    return await context.machines.kill(call.path["ref"], signal=body.signal, report=operation.report)


async def vm_delete(context: Context, call: Call, operation: Operation) -> t.Deleted:
    record = await context.machines.delete(call.path["ref"], report=operation.report)
    return t.Deleted(id=record.id, name=record.name)


async def vm_set(context: Context, call: Call, operation: Operation) -> VMRecord:
    body: t.SetVM = call.body
    change = Change(
        vcpu_count=body.vcpu_count,
        memory_mib=body.memory_mib,
        system_overlay_bytes=body.system_overlay_bytes,
        work_disk_bytes=body.work_disk_bytes,
        nat=body.nat,
        ttl_seconds=body.ttl,
        idle_seconds=body.idle,
        autostart=body.autostart,
        rates=body.rates,
        publish=body.publish,
        unpublish=body.unpublish,
    )
    return await context.machines.change(call.path["ref"], change, report=operation.report)


async def vm_prune(context: Context, call: Call, operation: Operation) -> t.Deleted:
    record = await context.machines.delete(call.path["ref"], report=operation.report, unless_running=True)
    return t.Deleted(id=record.id, name=record.name)


async def vm_exec(context: Context, call: Call) -> t.StreamTicket:
    body: t.Exec = call.body
    ref = call.path["ref"]
    run = program(
        context.images.config_of(context.machines.find(ref).image_id),
        argv=body.argv,
        env=body.env,
        cwd=body.cwd,
        user=body.user,
        start=body.start,
        entrypoint=body.entrypoint,
    )
    request = exec_request(
        argv=run.argv,
        env=run.env,
        cwd=run.cwd,
        user=run.user,
        tty=body.tty,
        rows=body.rows,
        columns=body.columns,
        stdin=body.stdin,
        make_cwd=not body.cwd and bool(run.cwd),
    )
    return stream_ticket(context, ref, GuestOperation.EXEC, request)


async def vm_stats(context: Context, call: Call) -> VMStats:
    return stats_reply(await context.machines.usage(call.path["ref"]))


async def vm_health(context: Context, call: Call) -> t.VMHealth:
    return health_reply(await context.machines.health(call.path["ref"]))


async def vm_ping(context: Context, call: Call) -> t.VMPing:
    health = await context.machines.health(call.path["ref"])
    return t.VMPing(name=health.name, alive=health.healthy)


async def vm_ports(context: Context, call: Call) -> t.VMPorts:
    record = context.machines.find(call.path["ref"])
    probe = call.query.get("probe", "1") not in ("0", "false")
    return ports_reply(record, with_endpoints(await context.machines.ports(record.id, probe=probe), published_reply(context, record)))


async def vm_touch(context: Context, call: Call) -> VMRecord:
    return context.machines.touch(call.path["ref"])


async def vm_logs(context: Context, call: Call) -> t.LogChunk:
    which = call.query.get("which") or "console"
    if which not in ("console", "vmm"):
        raise BadRequest(f"there is no log {which!r}", hint="which=console or which=vmm")
    offset = call.query.get("offset") or "0"
    if not (offset.isascii() and offset.isdigit() and len(offset) <= 18):
        raise BadRequest(f"offset must be a whole number of bytes, not {offset!r}")
    return await asyncio.to_thread(read_log, context.machines.log_file(call.path["ref"], which), int(offset))


def read_log(path: Path, offset: int) -> t.LogChunk:
    """At most MAX_LOG_CHUNK bytes from ``offset``, from the beginning when the file has become shorter. A character cut in half waits for the next call."""
    try:
        with open_regular(path) as file:
            if offset > os.fstat(file.fileno()).st_size:
                offset = 0
            file.seek(offset)
            untrusted = file.read(MAX_LOG_CHUNK)
    except FileNotFoundError:
        return t.LogChunk(text="", next_offset=0, path=str(path), exists=False)
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = decoder.decode(untrusted)
    return t.LogChunk(text=text, next_offset=offset + len(untrusted) - len(decoder.getstate()[0]), path=str(path))


async def lease_create(context: Context, call: Call) -> t.Lease:
    lease = context.leases.create()
    token = context.tokens.issue(lambda _transport: LeaseHold(context.leases, lease), lambda: context.leases.end(lease))
    return t.Lease(id=lease.id, token=token)


# -- the daemon ------------------------------------------------------------------------------------------------------------------------------------


async def doctor(context: Context, call: Call) -> tuple[t.Check, ...]:
    from .doctor import run_checks

    return await run_checks(context.layout, context.vmm, context.images, context.machines.defaults(), await context.machines.check_host())


async def defaults(context: Context, call: Call) -> t.Defaults:
    sizes = context.machines.defaults()
    return t.Defaults(
        vcpu_count=sizes.vcpu_count,
        memory_mib=sizes.memory_mib,
        work_disk_bytes=sizes.work_disk_bytes,
        system_overlay_bytes=sizes.system_overlay_bytes,
        image=sizes.image,
        provenance=dict(sizes.provenance),
    )


async def collect_garbage(context: Context, call: Call, operation: Operation) -> tuple[t.Leftover, ...]:
    body: t.CollectGarbage = call.body
    collected = await context.machines.collect_garbage(dry_run=body.dry_run, report=operation.report)
    return tuple(t.Leftover(kind=one.kind, what=one.what, vm_id=one.vm_id, removed=one.removed, error=one.error) for one in collected)


async def config_show(context: Context, call: Call) -> t.ConfigReport:
    return config_reply(context.layout, settings(context.machines.config, context.machines.defaults()))


async def operation_show(context: Context, call: Call) -> t.Operation:
    return context.operations.find(call.path["id"]).describe()


async def operation_list(context: Context, call: Call) -> tuple[t.Operation, ...]:
    return tuple(operation.describe() for operation in context.operations.list())


async def operation_cancel(context: Context, call: Call) -> t.Operation:
    operation = context.operations.find(call.path["id"])
    operation.cancel()
    return operation.describe()


async def openapi(context: Context, call: Call) -> dict[str, Any]:
    from ..api.openapi import document

    return document()


#: Route name -> what answers at once.
ANSWERS: Final[dict[str, Answer]] = {
    **IMAGE_ANSWERS,
    **KERNEL_ANSWERS,
    "doctor": doctor,
    "defaults": defaults,
    "config.show": config_show,
    "vm.list": vm_list,
    "vm.show": vm_show,
    "vm.exec": vm_exec,
    "vm.connect": vm_connect,
    "vm.forward": vm_forward,
    "vm.stats": vm_stats,
    "vm.health": vm_health,
    "vm.ping": vm_ping,
    "vm.ports": vm_ports,
    "vm.touch": vm_touch,
    "vm.logs": vm_logs,
    "ssh.show": ssh_show,
    "lease.create": lease_create,
    "operation.show": operation_show,
    "operation.list": operation_list,
    "operation.cancel": operation_cancel,
    "openapi": openapi,
    **FILE_ANSWERS,
    **JOB_ANSWERS,
    **WORKSPACE_ANSWERS,
}

#: Route name -> what runs as an operation.
WORKS: Final[dict[str, Work]] = {
    **IMAGE_WORKS,
    **KERNEL_WORKS,
    "vm.create": vm_create,
    "vm.start": vm_start,
    "vm.stop": vm_stop,
    "vm.restart": vm_restart,
    "vm.kill": vm_kill,
    "vm.delete": vm_delete,
    "vm.set": vm_set,
    "vm.prune": vm_prune,
    "gc": collect_garbage,
}

#: Operations that end when nobody waits for them any more (until they have made something that outlives the caller).
ENDS_WITH_CALLER: Final = frozenset({"vm.create", "image.pull", "image.build", "image.import", "image.export", "kernel.pull", "kernel.import"})


def start_work(context: Context, name: str, call: Call, *, waited_for: bool) -> Operation:
    """Begin the operation of a route. ``waited_for``: the caller follows it on this very connection."""
    work = WORKS[name]
    target = str(call.path.get("ref") or call.path.get("name") or getattr(call.body, "name", "") or getattr(call.body, "reference", ""))
    ends_with_followers = waited_for and name in ENDS_WITH_CALLER
    return context.operations.start(name, target, lambda operation: work(context, call, operation), ends_with_followers=ends_with_followers)
