"""``banger doctor``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from ..api.types import Check
from ..client import Client
from ..model.errors import BangerError
from .failures import FAILED
from .output import print_json
from .parameters import json_option
from .style import plain, status_word


@click.command()
@json_option
def doctor(as_json: bool) -> None:
    """Check what this host can do and say what to install for the rest; status 1 when something necessary is missing."""
    checks = _checks()
    if as_json:
        print_json(checks)
    else:
        _print(checks)
    if any(check.status == "fail" for check in checks):
        raise click.exceptions.Exit(FAILED)


def _checks() -> Sequence[Check]:
    """The daemon's findings, or that it cannot be asked and why."""
    try:
        with Client.connect() as client:
            checks: tuple[Check, ...] = client.call("doctor")
            return checks
    except BangerError as error:
        return (Check(name="daemon", status="fail", detail=error.message, remedy=error.hint),)


def _print(checks: Sequence[Check]) -> None:
    width = max((len(check.name) for check in checks), default=0)
    for check in checks:
        click.echo(f"{status_word(check.status.upper(), sys.stdout)}  {plain(check.name).ljust(width)}  {plain(check.detail)}")
        if check.remedy:
            click.echo(f"{' ' * (width + 8)}{plain(check.remedy)}")
