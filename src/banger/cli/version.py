"""``banger version``."""

from __future__ import annotations

import platform

import click

from .. import __version__


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def version(as_json: bool) -> None:
    """Print version information."""
    facts = {"version": __version__, "python": platform.python_version(), "machine": platform.machine()}
    if as_json:
        from .output import print_json

        print_json(facts)
    else:
        click.echo("".join(f"{name}: {value}\n" for name, value in facts.items()), nl=False)
