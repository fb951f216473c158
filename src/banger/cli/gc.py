"""``banger gc``: what a crash left behind."""

from __future__ import annotations

import click

from ..api.types import CollectGarbage, Leftover
from ..client import Client
from ..model.names import short_id
from .failures import FAILED
from .output import print_json, print_table
from .parameters import json_option
from .progress import Progress


@click.command()
@click.option("--dry-run", is_flag=True, help="Only show it.")
@json_option
def gc(dry_run: bool, as_json: bool) -> None:
    """Remove what belongs to this instance and no machine needs any more: processes, sockets, half-made files, directories."""
    with Client.connect() as client:
        found: tuple[Leftover, ...] = client.operation("gc", request=CollectGarbage(dry_run=dry_run), on_event=Progress())
    if as_json:
        print_json(found)
    elif found:
        print_table(("KIND", "VM", "WHAT", "RESULT"), [(one.kind, short_id(one.vm_id) or "-", one.what, _result(one)) for one in found])
    else:
        click.echo("nothing is left over", err=True)
    if any(one.error for one in found):
        raise click.exceptions.Exit(FAILED)


def _result(one: Leftover) -> str:
    return "removed" if one.removed else one.error or "there"
