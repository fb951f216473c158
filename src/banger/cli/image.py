"""``banger image``: listing, showing, pulling and deleting; what else there is to do is in modules of its own."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import click

from ..api.image_types import CatalogEntry, PullImage
from ..api.types import Event
from ..client import Client
from ..client.credentials import credentials_file
from ..model.records import ImageRecord
from ..model.sizes import format_size
from .batch import run_batch
from .image_words import absolute, piped_for
from .lazy import LazyGroup
from .output import ago, local_time, print_fields, print_json, print_table
from .parameters import artifact_name, image_argument, images_argument, json_option, kernel_option
from .progress import Progress, note, progress

UP_TO_DATE = "up_to_date"


@click.group(
    "image",
    cls=LazyGroup,
    entries={
        "list": (".image:list_command", "List images."),
        "show": (".image:show", "Show all about one image."),
        "pull": (".image:pull", "Get an image and its kernel."),
        "build": (".image_make:build", "Build an image from a recipe of your own."),
        "import": (".image_make:import_command", "Make an image of a file."),
        "register": (".image_make:register", "Use a root file system where it lies."),
        "promote": (".image_make:promote", "Copy what a registered image uses."),
        "export": (".image_make:export", "Write an image into one file."),
        "delete": (".image:delete", "Remove images that no machine uses."),
        "gc": (".image_space:gc", "Remove images by last use."),
        "cache": (".image_space:cache", "The cache of container images."),
    },
)
def image_group() -> None:
    """Images that machines start from."""


@click.command("list")
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
            images = [(one.name, one.kernel_name, format_size(one.size_bytes), ago(one.created_at), one.source) for one in records]
            print_json(records) if as_json else print_table(("NAME", "KERNEL", "SIZE", "CREATED", "SOURCE"), images)


@click.command()
@image_argument
@json_option
def show(image: str, as_json: bool) -> None:
    """Show all about one image."""
    with Client.connect() as client:
        record: ImageRecord = client.call("image.show", {"name": image})
    print_json(record) if as_json else print_fields([*_facts(record), *_configuration(record)])


def _facts(record: ImageRecord) -> list[tuple[str, str]]:
    fields = [
        ("name", record.name),
        ("id", record.id),
        ("source", record.source),
        ("manifest", record.manifest_digest),
        ("kernel", record.kernel_name),
        ("size", format_size(record.size_bytes)),
        ("digest", record.digest),
        ("created", f"{local_time(record.created_at)} ({ago(record.created_at)})"),
        ("last used", ago(record.last_used_at) if record.last_used_at else "never"),
        ("directory", record.path),
        ("file", "" if record.managed else record.reference),
        ("state", "superseded by a newer image of its name" if record.superseded else ""),
    ]
    return [(name, value) for name, value in fields if value]


def _configuration(record: ImageRecord) -> list[tuple[str, str]]:
    config = record.config
    fields = [
        ("entrypoint", shlex.join(config.entrypoint)),
        ("command", shlex.join(config.command)),
        ("user", config.user),
        ("workdir", config.working_directory),
        *(("env", variable) for variable in config.environment),
        ("ports", ", ".join(config.exposed_ports)),
    ]
    return [(name, value) for name, value in fields if value]


@click.command()
@click.argument("image", metavar="REFERENCE")
@click.option("--name", callback=artifact_name, help="Name of the image (default: one that follows from the reference).")
@kernel_option
@click.option("--insecure-registry", "insecure", metavar="HOST[:PORT]", multiple=True, help="Speak to this registry without TLS.")
@click.option("--sha256", metavar="DIGEST", default="", help="What sha256sum says of the bundle at a URL.")
@json_option
def pull(image: str, name: str | None, kernel: str | None, insecure: tuple[str, ...], sha256: str, as_json: bool) -> None:
    """Get an image and its kernel; Ctrl-C leaves nothing half-made.

    REFERENCE is a name of the catalog, a container image ([docker://]HOST/REPOSITORY[:TAG][@DIGEST], oci:DIR[:TAG], docker-archive:FILE, - for stdin),
    a bundle's https URL, or a file (./rootfs.tar). One that is here and has not changed is left alone.
    """
    with Client.connect() as client, piped_for(client, kernel) if image == "docker-archive:-" else nullcontext() as spool:
        request = PullImage(
            reference=f"docker-archive:{spool}" if spool else absolute(image),
            name=name or "",
            kernel=kernel or "",
            insecure_registries=insecure,
            digest=digest(sha256),
            credentials=credentials_file(),
            spooled=spool is not None,
        )
        make(client, "image.pull", request, as_json=as_json)


def make(client: Client, call: str, request: Any, params: dict[str, str] | None = None, *, as_json: bool) -> None:
    """An operation whose result is an image: its progress, and its name at the end."""
    with progress(as_json=as_json) as report:
        record: ImageRecord = client.operation(call, params, request, on_event=report if as_json else _telling(report))
    print_json(record) if as_json else click.echo(record.name)


def _telling(report: Callable[[Event], None]) -> Callable[[Event], None]:
    """Events as they come, and a line when there was nothing to do."""

    def on_event(event: Event) -> None:
        report(event)
        if event.stage == UP_TO_DATE:
            note(event.message)

    return on_event


def digest(sha256: str) -> str:
    """As the contract has it: ``sha256:...``, or ""."""
    return f"sha256:{sha256.removeprefix('sha256:').lower()}" if sha256 else ""


@click.command()
@images_argument
@json_option
def delete(names: tuple[str, ...], as_json: bool) -> None:
    """Remove images that no machine uses."""

    def action(client: Client, name: str) -> Any:
        return client.operation("image.delete", {"name": name}, on_event=Progress())

    with Client.connect() as client:
        run_batch(client, [(name, absolute(name)) for name in dict.fromkeys(names)], action, as_json=as_json)
