"""``vm list`` (and ``ps``) and ``vm show``."""

from __future__ import annotations

import click

from ..api.types import PublishedPort, VMDetail
from ..client import Client
from ..model.durations import format_duration
from ..model.names import short_id
from ..model.rates import format_cpu_quota
from ..model.records import VMRecord, VMState
from ..model.sizes import format_size
from .output import ago, local_time, print_fields, print_json, print_table
from .parameters import json_option, vm_argument

_HEAD = ("ID", "NAME", "STATE", "IMAGE", "VCPU", "MEM", "DISK", "CREATED")
_NOTE_LENGTH = 60


@click.command("list")
@click.option("-q", "--quiet", is_flag=True, help="Print ids only.")
@click.option("--running", is_flag=True, help="Only machines that run.")
@json_option
def list_command(quiet: bool, running: bool, as_json: bool) -> None:
    """List machines."""
    with Client.connect() as client:
        records: tuple[VMRecord, ...] = client.call("vm.list")
    if running:
        records = tuple(record for record in records if record.state is VMState.RUNNING)
    if as_json:
        print_json(records)
    elif quiet:
        click.echo("".join(f"{short_id(record.id)}\n" for record in records), nl=False)
    else:
        _print(records)


def _print(records: tuple[VMRecord, ...]) -> None:
    """The table, with columns for addresses and for why machines do not run where there is anything to say."""
    more = {"ADDRESS": [record.runtime.address for record in records], "NOTE": [_note(record) for record in records]}
    shown = {name: cells for name, cells in more.items() if any(cells)}
    print_table((*_HEAD, *shown), [(*_row(record), *(cells[index] for cells in shown.values())) for index, record in enumerate(records)])


def _note(record: VMRecord) -> str:
    why = {VMState.ERROR: record.runtime.last_error, VMState.STOPPED: record.runtime.last_stop_reason}.get(record.state, "")
    first = why.partition("\n")[0]
    return first if len(first) <= _NOTE_LENGTH else f"{first[: _NOTE_LENGTH - 3]}..."


def _row(record: VMRecord) -> tuple[str, ...]:
    spec = record.spec
    memory, disk = format_size(spec.memory_mib << 20), format_size(spec.work_disk_bytes)
    return (short_id(record.id), record.name, record.state.value, record.image_name, str(spec.vcpu_count), memory, disk, ago(record.created_at))


@click.command()
@vm_argument
@json_option
def show(ref: str, as_json: bool) -> None:
    """Show all about one machine."""
    with Client.connect() as client:
        detail: VMDetail = client.call("vm.show", {"ref": ref})
    print_json(detail) if as_json else print_fields(_fields(detail))


def _stops(record: VMRecord) -> str:
    """When it is stopped by itself, as far as the machine's own options say."""
    spec = record.spec
    ttl = f"{format_duration(spec.ttl_seconds)} after its start" if spec.ttl_seconds else ""
    idle = f"when nobody has used it for {format_duration(spec.idle_seconds)}" if spec.idle_seconds else ""
    return ", or ".join(word for word in (ttl, idle) if word)


def _limits(record: VMRecord) -> str:
    spec = record.spec
    words = (
        f"cpu {format_cpu_quota(spec.cpu_quota)}" if spec.cpu_quota else "",
        f"disk {format_size(spec.disk_bytes_per_second)}/s" if spec.disk_bytes_per_second else "",
        f"disk {spec.disk_operations_per_second} requests/s" if spec.disk_operations_per_second else "",
        f"network {format_size(spec.network_bytes_per_second)}/s" if spec.network_bytes_per_second else "",
    )
    return ", ".join(word for word in words if word)


def _network(record: VMRecord) -> str:
    """What a machine that runs was started with, what any other is to be started with."""
    runtime, nat = record.runtime, record.spec.nat
    if runtime.address:
        return "bridge, with nat" if nat else "bridge, without nat"
    if record.state is VMState.RUNNING and runtime.has_card:
        return runtime.network if nat else f"{runtime.network}, cut off (--no-nat)"
    return "nat" if nat else "none"


def _published(port: PublishedPort, *, alive: bool) -> str:
    state = "" if port.open else f" (not open: {port.error or 'unknown'})" if alive else " (while it runs)"
    return f"{port.endpoint} -> {port.guest_port}{state}"


def _fields(detail: VMDetail) -> list[tuple[str, str]]:
    record, spec, runtime = detail.record, detail.record.spec, detail.record.runtime
    process = f"pid {detail.pid}" if detail.alive and detail.pid else ""
    return [
        ("name", record.name),
        ("id", record.id),
        ("state", record.state.value + (" (booted)" if record.state is VMState.RUNNING and runtime.booted else "")),
        ("last error", runtime.last_error),
        ("image", record.image_name),
        ("vcpu", str(spec.vcpu_count)),
        ("memory", f"{spec.memory_mib} MiB"),
        ("disk", f"{format_size(spec.work_disk_bytes)} ({format_size(detail.work_allocated_bytes)} used)"),
        ("system overlay", f"{format_size(spec.system_overlay_bytes)} ({format_size(detail.overlay_allocated_bytes)} used)"),
        ("autostart", "after a boot of the host" if spec.autostart else ""),
        ("limits", _limits(record)),
        ("network", _network(record)),
        ("address", runtime.address),
        ("host name", f"{record.name}.vm" if runtime.address else f"{record.name}.vm (for ssh)"),
        ("published", "\n".join(_published(one, alive=detail.alive) for one in detail.published)),
        ("workspace", f"{runtime.workspace.guest_path} from {runtime.workspace.source_path}" if runtime.workspace else ""),
        ("vmm", " ".join(word for word in (runtime.vmm, runtime.accelerator, process) if word)),
        ("kernel", " ".join(word for word in (runtime.kernel_name, runtime.kernel_version, runtime.kernel_digest[:19]) if word)),
        ("guest kernel", detail.guest_kernel),
        ("guest program", detail.guest_program),
        ("ready in", f"{runtime.ready_seconds:.2f} s" if runtime.ready_seconds else ""),
        ("created", f"{local_time(record.created_at)} ({ago(record.created_at)})"),
        ("last used", ago(record.touched_at)),
        ("stops", _stops(record)),
        ("last stop", runtime.last_stop_reason if record.state is not VMState.RUNNING else ""),
        ("removed", "when the command that made it ends (--rm)" if record.remove else ""),
        ("directory", detail.directory),
        ("console log", detail.console_log),
        ("vmm log", detail.vmm_log),
    ]
