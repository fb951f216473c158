"""``vm stats``, ``vm ports``, ``vm health``, ``vm ping`` and ``vm touch``."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any

import click

from ..api.stats_types import GuestStats, NetworkStats, VMStats
from ..api.types import Port, VMHealth, VMPing, VMPorts
from ..client import Client
from ..model.errors import NotFound
from ..model.records import VMRecord, VMState
from ..model.sizes import format_size
from .batch import gather, run_batch, vm_targets
from .failures import FAILED, report_error
from .output import print_json, print_json_line, print_table
from .parameters import json_option, some_vms_argument, vm_argument, vms_argument

_STATS_HEAD = ("NAME", "STATE", "CPU", "RSS", "PSS", "DISK", "GUEST MEM", "LOAD", "PROCS", "GUEST DISK")
_PORTS_HEAD = ("NAME", "PROTO", "PORT", "ADDRESS", "PROCESS", "ANSWER", "ENDPOINT")
_CLEAR = "\x1b[H\x1b[J"
_EVERYWHERE = {"0.0.0.0", "::"}


def _targets(client: Client, refs: Sequence[str]) -> list[tuple[str, str]]:
    """The named machines, or all that run."""
    if refs:
        return vm_targets(client, refs)
    records: tuple[VMRecord, ...] = client.call("vm.list")
    return [(record.name, record.id) for record in records if record.state is VMState.RUNNING]


def _stats(client: Client, ref: str) -> Any:
    return client.call("vm.stats", {"ref": ref})


@click.command()
@some_vms_argument
@click.option("-f", "--follow", is_flag=True, help="Look again and again, until Ctrl-C or until the named machines are deleted.")
@click.option("--interval", type=click.FloatRange(0.2, 3600), default=2.0, show_default=True, help="Seconds between two looks with --follow.")
@json_option
def stats(refs: tuple[str, ...], follow: bool, interval: float, as_json: bool) -> None:
    """Show what machines use (without VM: all that run).

    CPU, RSS and PSS are those of the process that runs the machine, DISK is what its disks take on this host, NET what has passed between a machine on the
    bridge and the outside since it was let out; the rest is what the guest says.
    With --follow, --json prints one line per machine and look.
    """
    with Client.connect() as client:
        if not follow:
            run_batch(client, _targets(client, refs), _stats, as_json=as_json, show=_print_stats)
            return
        while _look(client, refs, as_json=as_json):
            time.sleep(interval)


def _look(client: Client, refs: Sequence[str], *, as_json: bool) -> bool:
    """One round of --follow; False when there is nothing more to come."""
    batch = gather(client, _targets(client, refs), _stats)
    found = [target.result for target in batch if target.error is None]
    if as_json:
        for result in found:
            print_json_line(result)
    else:
        click.echo(_CLEAR if sys.stdout.isatty() else "", nl=False)
        _print_stats(found)
    gone = [target for target in batch if isinstance(target.error, NotFound)]
    for target in batch:
        if target.error is not None and (refs or target not in gone):
            report_error(target.error)
    return not refs or len(gone) < len(batch)


def _print_stats(found: Sequence[VMStats]) -> None:
    """The table, with a column for traffic where machines are let out through a bridge."""
    if any(one.network for one in found):
        print_table((*_STATS_HEAD, "NET OUT/IN"), [(*_stats_row(one), _traffic(one.network)) for one in found])
    else:
        print_table(_STATS_HEAD, [_stats_row(one) for one in found])


def _traffic(network: NetworkStats | None) -> str:
    return "-" if network is None else f"{format_size(network.sent_bytes)}/{format_size(network.received_bytes)}"


def _stats_row(one: VMStats) -> tuple[str, ...]:
    disk = format_size(one.overlay_allocated_bytes + one.work_allocated_bytes)
    process = one.process
    host = ("-", "-", "-")
    if process is not None:
        host = (f"{process.cpu_percent:.1f}%", format_size(process.rss_bytes), "-" if process.pss_bytes is None else format_size(process.pss_bytes))
    return (one.name, one.state.value, *host, disk, *(_guest_cells(one.guest) if one.guest is not None else ("-", "-", "-", one.guest_error or "-")))


def _guest_cells(guest: GuestStats) -> tuple[str, ...]:
    used = guest.memory_total_bytes - guest.memory_available_bytes
    disks = ", ".join(f"{one.path} {_percent(one.size_bytes - one.available_bytes, one.size_bytes)}" for one in guest.file_systems)
    return f"{format_size(max(0, used))}/{format_size(guest.memory_total_bytes)}", f"{guest.load:.2f}", str(guest.processes), disks


def _percent(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else "-"


@click.command()
@some_vms_argument
@click.option("--no-probe", is_flag=True, help="Do not ask whether they speak HTTP.")
@json_option
def ports(refs: tuple[str, ...], no_probe: bool, as_json: bool) -> None:
    """Show what waits for connections in machines (without VM: all that run).

    ANSWER is what a TCP port says to an HTTP request for /, asked inside the machine; ports known to speak something else, such as ssh, are not asked.
    """

    def action(client: Client, ref: str) -> Any:
        return client.call("vm.ports", {"ref": ref}, query={"probe": "0"} if no_probe else None)

    with Client.connect() as client:
        run_batch(client, _targets(client, refs), action, as_json=as_json, show=_print_ports)


def _print_ports(found: Sequence[VMPorts]) -> None:
    print_table(_PORTS_HEAD, [_port_row(one.name, port) for one in found for port in one.ports])


def _port_row(name: str, port: Port) -> tuple[str, ...]:
    address = "*" if _EVERYWHERE & set(port.addresses) else ", ".join(port.addresses) or "-"
    answer = "-" if port.http_status is None else f"http {port.http_status}"
    return name, port.protocol, str(port.port), address, port.process or "-", answer, port.endpoint or "not published"


@click.command()
@vm_argument
@json_option
def health(ref: str, as_json: bool) -> None:
    """Say whether a machine runs and its agent answers; status 1 when not."""
    with Client.connect() as client:
        found: VMHealth = client.call("vm.health", {"ref": ref})
    if as_json:
        print_json(found)
    elif found.healthy:
        click.echo(f"{found.name} is healthy ({found.guest_state}, {(found.round_trip or 0) * 1000:.1f} ms)")
    else:
        click.echo(f"{found.name} does not run")
    if not found.healthy:
        raise click.exceptions.Exit(FAILED)


@click.command()
@vm_argument
@json_option
def ping(ref: str, as_json: bool) -> None:
    """Say whether a machine is alive; status 1 when not."""
    with Client.connect() as client:
        found: VMPing = client.call("vm.ping", {"ref": ref})
    print_json(found) if as_json else click.echo(f"{found.name} is {'alive' if found.alive else 'not alive'}")
    if not found.alive:
        raise click.exceptions.Exit(FAILED)


@click.command()
@vms_argument
@json_option
def touch(refs: tuple[str, ...], as_json: bool) -> None:
    """Note that machines are in use: the time after which idle ones are stopped begins anew."""

    def action(client: Client, ref: str) -> Any:
        return client.call("vm.touch", {"ref": ref})

    with Client.connect() as client:
        run_batch(client, vm_targets(client, refs), action, as_json=as_json)
