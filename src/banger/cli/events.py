"""``events``."""

from __future__ import annotations

import time

import click

from ..client import Client
from ..model.errors import DaemonUnreachable
from ..model.records import VMEvent
from .output import print_json_line
from .parameters import json_option
from .style import plain


@click.command()
@click.option("-f", "--follow", is_flag=True, help="Go on with what happens next.")
@click.option("--since", metavar="CURSOR", default="", help="Begin after this event; 0 = with the oldest that is kept (the newest 10,000 are).")
@json_option
def events(follow: bool, since: str, as_json: bool) -> None:
    """Show what happened to machines: changes of state, stages, failures.

    The first number of each line is its cursor. Without --since: the last hundred, or with --follow only what is new.
    """
    query = {"since": since} | ({"follow": "1"} if follow else {})
    with Client.connect() as client:
        try:
            for event in client.stream("events", query=query):
                since = str(event.cursor)
                print_json_line(event) if as_json else click.echo(_line(event))
            if follow:
                raise DaemonUnreachable("the daemon has stopped")
        except DaemonUnreachable as error:
            raise DaemonUnreachable(error.message, hint=f"banger events --follow --since {since or 0}") from error


def _line(event: VMEvent) -> str:
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event.at)) + f".{int(event.at * 1000) % 1000:03}" if event.at else "-" * 23
    what = " ".join(word for word in (event.operation, event.stage, event.state) if word)
    message = plain(event.message).partition("\n")[0]
    return "  ".join(word for word in (f"{event.cursor:>7}", at, f"{event.kind:<7}", event.vm_name or event.vm_id[:12] or "-", what, message) if word)
