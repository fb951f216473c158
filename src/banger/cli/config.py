"""``banger config``."""

from __future__ import annotations

import click

from ..api.types import ConfigReport
from ..client import Client
from .lazy import LazyGroup
from .output import print_json, print_table
from .parameters import json_option


@click.group(cls=LazyGroup, entries={"show": (".config:show", "Print every setting and where it comes from.")})
def config() -> None:
    """Settings of this instance, from config.toml. The daemon reads the file when it starts: `banger daemon stop`, then any command."""


@click.command()
@json_option
def show(as_json: bool) -> None:
    """Print every setting of the running daemon and where it comes from.

    config: the file; env: BANGER_LOG_LEVEL; option: of bangerd; auto: chosen for this host; builtin: nobody said otherwise.
    """
    with Client.connect() as client:
        report: ConfigReport = client.call("config.show")
    if as_json:
        print_json(report)
        return
    print_table(("KEY", "VALUE", "SOURCE"), [(one.key, str(one.value), one.source) for one in report.settings])
    click.echo(f"\nfile: {report.path}")
