"""``banger kernel``."""

from __future__ import annotations

import click

from ..client import Client
from ..model.records import KernelRecord
from ..model.sizes import format_size
from .output import ago, local_time, print_fields, print_json, print_table
from .parameters import json_option, kernel_argument


@click.group("kernel")
def kernel_group() -> None:
    """Kernels that images boot with; an image brings its own."""


@kernel_group.command("list")
@json_option
def list_command(as_json: bool) -> None:
    """List kernels."""
    with Client.connect() as client:
        records: tuple[KernelRecord, ...] = client.call("kernel.list")
    rows = [(record.name, record.version, format_size(record.size_bytes), ago(record.created_at)) for record in records]
    print_json(records) if as_json else print_table(("NAME", "VERSION", "SIZE", "CREATED"), rows)


@kernel_group.command()
@kernel_argument
@json_option
def show(kernel: str, as_json: bool) -> None:
    """Show all about one kernel."""
    with Client.connect() as client:
        record: KernelRecord = client.call("kernel.show", {"name": kernel})
    if as_json:
        print_json(record)
        return
    print_fields(
        [
            ("name", record.name),
            ("id", record.id),
            ("version", record.version),
            ("source", record.source),
            ("size", format_size(record.size_bytes)),
            ("digest", record.digest),
            ("created", f"{local_time(record.created_at)} ({ago(record.created_at)})"),
            ("directory", record.path),
        ]
    )
