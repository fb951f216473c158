"""``banger image gc`` and ``banger image cache``: the room that images take."""

from __future__ import annotations

import click

from ..api.image_types import CollectedImage, CollectImages, PrunedCache, PruneImageCache
from ..client import Client
from ..model.sizes import format_size
from .failures import FAILED
from .machine import BUDGET
from .output import print_json, print_table
from .parameters import json_option
from .progress import note, progress

_dry_run_option = click.option("--dry-run", is_flag=True, help="Only say what would be removed.")


@click.command()
@_dry_run_option
@click.option("--budget", type=BUDGET, help="What all images together may take (default: 20G).")
@json_option
def gc(dry_run: bool, budget: int | None, as_json: bool) -> int:
    """Remove images that no machine uses: those that a newer one has replaced, then the least recently used until the rest fits into the budget."""
    with Client.connect() as client, progress(as_json=as_json) as report:
        request = CollectImages(dry_run=dry_run, budget_bytes=budget)
        found: tuple[CollectedImage, ...] = client.operation("image.gc", request=request, on_event=report)
    if as_json:
        print_json(found)
    elif found:
        rows = [(one.name, format_size(one.size_bytes), "removed" if one.removed else one.error or "to be removed", one.reason) for one in found]
        print_table(("NAME", "SIZE", "STATE", "REASON"), rows)
    else:
        note("nothing to remove")
    return FAILED if any(one.error for one in found) else 0


@click.group()
def cache() -> None:
    """The cache of container images: layers that further pulls need not fetch again."""


@cache.command()
@_dry_run_option
@json_option
def prune(dry_run: bool, as_json: bool) -> None:
    """Empty the cache. No image needs it."""
    with Client.connect() as client, progress(as_json=as_json) as report:
        pruned: PrunedCache = client.operation("image.prune_cache", request=PruneImageCache(dry_run=dry_run), on_event=report)
    if as_json:
        print_json(pruned)
    else:
        click.echo(f"{pruned.count} blobs, {format_size(pruned.size_bytes)}{'' if pruned.removed else ' would be'} removed")
        if pruned.kept:
            note(f"{pruned.kept} blobs stay: an image is being made, which may need what was fetched in the last hour")
