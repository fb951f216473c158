"""``banger kernel``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..api.image_types import CatalogKernel, ExportKernel, ImportKernel, PullKernel
from ..client import Client
from ..model.errors import BadRequest
from ..model.records import KernelRecord
from ..model.sizes import format_size
from .batch import run_batch
from .output import ago, local_time, print_fields, print_json, print_table
from .parameters import json_option, kernel_argument, kernels_argument
from .progress import Progress, progress

_force_option = click.option("--force", is_flag=True, help="Replace a kernel of that name; machines boot the new one at their next start.")


@click.group("kernel")
def kernel_group() -> None:
    """Kernels that images boot with; an image brings its own."""


@kernel_group.command("list")
@click.option("--available", is_flag=True, help="What can be pulled by name, here or not.")
@json_option
def list_command(available: bool, as_json: bool) -> None:
    """List kernels."""
    with Client.connect() as client:
        if available:
            entries: tuple[CatalogKernel, ...] = client.call("kernel.catalog")
            rows = [(entry.name, "pulled" if entry.pulled else "available", entry.source, entry.description) for entry in entries]
            print_json(entries) if as_json else print_table(("NAME", "STATE", "SOURCE", "DESCRIPTION"), rows)
        else:
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
            ("format", record.format),
            ("console", record.console),
            ("virtio", record.virtio),
            ("source", record.source),
            ("size", format_size(record.size_bytes)),
            ("digest", record.digest),
            ("created", f"{local_time(record.created_at)} ({ago(record.created_at)})"),
            ("directory", record.path),
        ]
    )


@kernel_group.command()
@click.argument("source", metavar="KERNEL|FILE|URL")
@click.option("--name", metavar="NAME", help="Name of the kernel; default: as in the catalog, or as the bundle's file is called.")
@click.option("--sha256", metavar="DIGEST", help="What the bundle must have; needed for a URL.")
@_force_option
@json_option
def pull(source: str, name: str | None, sha256: str | None, force: bool, as_json: bool) -> None:
    """Get a kernel: one of the catalog by its name, or a bundle by its file or https URL. One that is here already is left alone."""
    request = _pull_request(source, name or "", sha256 or "", force=force)
    with Client.connect() as client, progress(as_json=as_json) as report:
        record: KernelRecord = client.operation("kernel.pull", request=request, on_event=report)
    print_json(record) if as_json else click.echo(record.name)


@kernel_group.command("import")
@kernel_argument
@click.option("--from", "directory", metavar="DIR", type=click.Path(), help="Directory with vmlinux or vmlinuz, modules/ or lib/modules/VERSION/, and config.")
@click.option("--vmlinux", metavar="FILE", type=click.Path(), help="ELF kernel or bzImage.")
@click.option("--modules", metavar="DIR", type=click.Path(), help="Content of /lib/modules/VERSION.")
@click.option("--config", metavar="FILE", type=click.Path(), help="The kernel's configuration, unless it carries it in itself.")
@_force_option
@json_option
def import_command(kernel: str, force: bool, as_json: bool, **paths: str | None) -> None:
    """Take a kernel from files. One that lacks what a machine needs is refused, and the options that are missing are named."""
    request = ImportKernel(force=force, **{key: str(Path(path).absolute()) for key, path in paths.items() if path})
    with Client.connect() as client, progress(as_json=as_json) as report:
        record: KernelRecord = client.operation("kernel.import", {"name": kernel}, request=request, on_event=report)
    print_json(record) if as_json else click.echo(record.name)


@kernel_group.command()
@kernel_argument
@click.option("-o", "--output", metavar="FILE", required=True, type=click.Path(), help="The bundle to write; must not exist.")
@json_option
def export(kernel: str, output: str, as_json: bool) -> None:
    """Write a kernel as a bundle, which `kernel pull` takes elsewhere."""
    destination = str(Path(output).absolute())
    with Client.connect() as client, progress(as_json=as_json) as report:
        record: KernelRecord = client.operation("kernel.export", {"name": kernel}, request=ExportKernel(destination=destination), on_event=report)
    print_json(record) if as_json else click.echo(destination)


@kernel_group.command()
@kernels_argument
@json_option
def delete(names: tuple[str, ...], as_json: bool) -> None:
    """Remove kernels that no image and no machine uses."""

    def action(client: Client, name: str) -> Any:
        return client.operation("kernel.delete", {"name": name}, on_event=Progress())

    with Client.connect() as client:
        run_batch(client, [(name, name) for name in dict.fromkeys(names)], action, as_json=as_json)


def _pull_request(source: str, name: str, sha256: str, *, force: bool) -> PullKernel:
    """Which of the three ``source`` is: a path has a slash in it or is that of a file, a URL has a scheme."""
    digest = f"sha256:{sha256.removeprefix('sha256:').lower()}" if sha256 else ""
    if "://" not in source and "/" not in source and not source.endswith(".tar.zst") and not Path(source).is_file():
        if sha256 or (name and name != source):
            raise BadRequest("a kernel of the catalog has its own name and digest", hint="--name and --sha256 are for bundles")
        return PullKernel(name=source, force=force)
    stem = source.rpartition("/")[2].removesuffix(".zst").removesuffix(".tar")
    return PullKernel(name=name or stem, bundle=source if "://" in source else str(Path(source).absolute()), digest=digest, force=force)
