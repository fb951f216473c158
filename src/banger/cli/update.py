"""``banger update``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ..model.sizes import format_size
from ..system.places import Places
from .output import print_json
from .parameters import json_option
from .progress import progress
from .system import Teller

if TYPE_CHECKING:
    from ..system.update import Offer


@click.command()
@click.option("--check", "only_check", is_flag=True, help="Only look whether there is a newer release; needs no root.")
@click.option("--to", "version", default="", metavar="VERSION", help="This release.  [default: the newest stable one]")
@click.option("--from", "address", default="", metavar="URL", help="Where releases are, a URL or a directory.  [default: release_url in config.toml]")
@click.option("--dry-run", is_flag=True, help="Only print what would be done, in order.")
@click.option("--force", is_flag=True, help="Also to an older release, and with operations under way, which are interrupted.")
@json_option
def update(only_check: bool, version: str, address: str, dry_run: bool, force: bool, as_json: bool) -> None:
    """Bring the service of this host (`banger system install`) to another release. Machines keep running.

    The release must be signed with a key that this host trusts. When it does not work here, the old version is put back and started again.
    Nothing looks for releases but this command.
    """
    from ..system.update import Wish, carry_out, check_allowed, check_updatable, find_offer

    places, wish = Places(), Wish(version=version, address=address, force=force)
    installation = None if only_check else check_updatable(places)
    offer = find_offer(places, wish)
    changed = False
    if installation is not None:
        check_allowed(offer, wish)
        if not dry_run:
            with progress(as_json=as_json) as shown:
                changed = carry_out(places, installation, offer, wish, Teller(shown))
    if as_json:
        print_json(_plain(offer, dry_run=dry_run or only_check, changed=changed))
    elif only_check:
        _print_offer(offer)
    elif dry_run:
        click.echo("\n".join(offer.steps))
    elif changed:
        click.echo(f"banger {offer.version} is installed" + (f" (before: {offer.current})" if not offer.same else " and runs"))
    else:
        click.echo(f"banger {offer.version} is installed, and nothing had to be changed")


def _print_offer(offer: Offer) -> None:
    if not offer.newer:
        click.echo(f"banger {offer.current} is up to date; the newest release is {offer.latest}")
        return
    notes = ", with other units" if offer.units_changed else ""
    click.echo(f"banger {offer.version} can be installed ({format_size(offer.size)}{notes}); this is {offer.current}")
    click.echo("sudo banger update")


def _plain(offer: Offer, *, dry_run: bool, changed: bool) -> dict[str, object]:
    return {
        "current": offer.current,
        "latest": offer.latest,
        "version": offer.version,
        "newer": offer.newer,
        "released_at": offer.release.released_at,
        "bytes": offer.size,
        "units_changed": offer.units_changed,
        "dry_run": dry_run,
        "updated": changed,
        "steps": offer.steps if dry_run else (),
    }
