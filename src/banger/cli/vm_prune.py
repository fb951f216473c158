"""``vm prune``: remove every machine that does not run, after asking."""

from __future__ import annotations

import sys
from typing import Any

import click

from ..client import Client
from ..model.errors import BadRequest
from ..model.names import short_id
from ..model.records import VMRecord, VMState
from ..model.sizes import format_size
from .batch import run_batch
from .output import ago, print_json, print_table
from .parameters import json_option
from .progress import Progress

_HEAD = ("ID", "NAME", "STATE", "IMAGE", "DISK", "CREATED")


@click.command()
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Only show them.")
@json_option
def prune(force: bool, dry_run: bool, as_json: bool) -> None:
    """Remove all machines that do not run, and their disks. This cannot be undone."""
    if not force and not dry_run:
        _require_somebody_to_ask(as_json=as_json)
    with Client.connect() as client:
        records: tuple[VMRecord, ...] = client.call("vm.list")
        idle = [record for record in records if record.state is not VMState.RUNNING]
        if dry_run and as_json:
            print_json(idle)
            return
        if not as_json:
            _show(idle)
        if not dry_run and (force or (idle and _agreed(len(idle)))):
            run_batch(client, [(record.name, record.id) for record in idle], _prune, as_json=as_json)


def _require_somebody_to_ask(*, as_json: bool) -> None:
    if as_json or not sys.stdin.isatty():
        reason = "--json asks nobody" if as_json else "nobody can be asked: standard input is no terminal"
        raise BadRequest(reason, hint="--force removes them without asking, --dry-run only shows them")


def _show(idle: list[VMRecord]) -> None:
    if not idle:
        click.echo("every machine is running: nothing to remove", err=True)
        return
    print_table(_HEAD, [_row(record) for record in idle])


def _row(record: VMRecord) -> tuple[str, ...]:
    disk = format_size(record.spec.work_disk_bytes)
    return (short_id(record.id), record.name, record.state.value, record.image_name, disk, ago(record.created_at))


def _agreed(count: int) -> bool:
    what = "this machine and its disks" if count == 1 else f"these {count} machines and their disks"
    return click.confirm(f"Remove {what}?", err=True)


def _prune(client: Client, ref: str) -> Any:
    return client.operation("vm.prune", {"ref": ref}, on_event=Progress())
