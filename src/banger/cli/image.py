"""``banger image``."""

from __future__ import annotations

from typing import Any

import click

from ..api.types import CatalogEntry, PullImage
from ..client import Client
from ..model.records import ImageRecord
from ..model.sizes import format_size
from .batch import run_batch
from .output import ago, local_time, print_fields, print_json, print_table
from .parameters import image_argument, images_argument, json_option
from .progress import Progress, progress


@click.group("image")
def image_group() -> None:
    """Images that machines start from."""


@image_group.command("list")
@click.option("--available", is_flag=True, help="What can be pulled by name, here or not.")
@json_option
def list_command(available: bool, as_json: bool) -> None:
    """List images."""
    with Client.connect() as client:
        if available:
            entries: tuple[CatalogEntry, ...] = client.call("image.catalog")
            rows = [(entry.name, entry.kernel, "pulled" if entry.pulled else "available", entry.description) for entry in entries]
            print_json(entries) if as_json else print_table(("NAME", "KERNEL", "STATE", "DESCRIPTION"), rows)
        else:
            records: tuple[ImageRecord, ...] = client.call("image.list")
            rows = [(record.name, record.kernel_name, format_size(record.size_bytes), ago(record.created_at)) for record in records]
            print_json(records) if as_json else print_table(("NAME", "KERNEL", "SIZE", "CREATED"), rows)


@image_group.command()
@image_argument
@json_option
def show(image: str, as_json: bool) -> None:
    """Show all about one image."""
    with Client.connect() as client:
        record: ImageRecord = client.call("image.show", {"name": image})
    if as_json:
        print_json(record)
        return
    print_fields(
        [
            ("name", record.name),
            ("id", record.id),
            ("source", record.source),
            ("kernel", record.kernel_name),
            ("size", format_size(record.size_bytes)),
            ("digest", record.digest),
            ("created", f"{local_time(record.created_at)} ({ago(record.created_at)})"),
            ("last used", ago(record.last_used_at) if record.last_used_at else "never"),
            ("directory", record.path),
        ]
    )


@image_group.command()
@image_argument
@json_option
def pull(image: str, as_json: bool) -> None:
    """Get an image and its kernel; Ctrl-C leaves nothing half-made. One that is here already is left alone."""
    with Client.connect() as client, progress(as_json=as_json) as report:
        record: ImageRecord = client.operation("image.pull", request=PullImage(name=image), on_event=report)
    print_json(record) if as_json else click.echo(record.name)


@image_group.command()
@images_argument
@json_option
def delete(names: tuple[str, ...], as_json: bool) -> None:
    """Remove images that no machine uses."""

    def action(client: Client, name: str) -> Any:
        return client.operation("image.delete", {"name": name}, on_event=Progress())

    with Client.connect() as client:
        run_batch(client, [(name, name) for name in dict.fromkeys(names)], action, as_json=as_json)
