"""``banger image build|import|register|promote|export``."""

from __future__ import annotations

import click

from ..api.image_types import BuildImage, ExportImage, ImportImage, RegisterImage
from ..client import Client
from .image import digest, make
from .image_words import absolute_path, piped_for, to_stdout
from .parameters import artifact_name, file_option_type, image_argument, json_option, kernel_option
from .progress import progress

_name_option = click.option("--name", callback=artifact_name, required=True, help="Name of the image.")


@click.command()
@click.argument("recipe", type=file_option_type)
@click.option("--name", callback=artifact_name, help="Name of the image (default: that of the file).")
@kernel_option
@json_option
def build(recipe: str, name: str | None, kernel: str | None, as_json: bool) -> None:
    """Build an image from a recipe of your own, a TOML file: suite, packages, files, links, kernel."""
    with Client.connect() as client:
        request = BuildImage(recipe=absolute_path(recipe), name=name or "", kernel=kernel or "")
        make(client, "image.build", request, as_json=as_json)


@click.command("import")
@click.argument("file", type=file_option_type)
@_name_option
@kernel_option
@click.option("--sha256", metavar="DIGEST", default="", help="What sha256sum must say of a bundle.")
@json_option
def import_command(file: str, name: str, kernel: str | None, sha256: str, as_json: bool) -> None:
    """Make an image of a file: a root file system as tar (.gz, .zst, .xz) or ext4, a bundle, or a docker archive; - for stdin."""
    with Client.connect() as client:
        if file != "-":
            request = ImportImage(file=absolute_path(file), name=name, kernel=kernel or "", digest=digest(sha256))
            make(client, "image.import", request, as_json=as_json)
            return
        with piped_for(client, kernel) as spool:
            request = ImportImage(file=str(spool), name=name, kernel=kernel or "", digest=digest(sha256), spooled=True)
            make(client, "image.import", request, as_json=as_json)


@click.command()
@_name_option
@click.option("--rootfs", type=file_option_type, required=True, help="An ext4 file system; do not change it while machines use it.")
@kernel_option
@json_option
def register(name: str, rootfs: str, kernel: str | None, as_json: bool) -> None:
    """Use a root file system where it lies."""
    with Client.connect() as client:
        make(client, "image.register", RegisterImage(name=name, rootfs=absolute_path(rootfs), kernel=kernel or ""), as_json=as_json)


@click.command()
@image_argument
@json_option
def promote(image: str, as_json: bool) -> None:
    """Copy what a registered image uses, so that the file is no longer needed."""
    with Client.connect() as client:
        make(client, "image.promote", None, {"name": image}, as_json=as_json)


@click.command()
@image_argument
@click.option("-o", "--output", type=file_option_type, required=True, help="The bundle to write, must not exist; - for stdout.")
@json_option
def export(image: str, output: str, as_json: bool) -> None:
    """Write an image into one file, a bundle, which `image import` takes on any host."""
    with Client.connect() as client:
        if output != "-":
            make(client, "image.export", ExportImage(file=absolute_path(output)), {"name": image}, as_json=as_json)
            return
        with to_stdout() as spool, progress(as_json=as_json) as report:
            client.operation("image.export", {"name": image}, ExportImage(file=str(spool)), on_event=report)
