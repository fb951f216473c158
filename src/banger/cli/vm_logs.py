"""``vm logs``."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import click

from ..api.types import LogChunk
from ..client import Client
from ..model.errors import NotFound
from .output import print_json_line
from .parameters import vm_argument
from .progress import note
from .style import plain

_FOLLOW_INTERVAL = 0.4


@click.command()
@vm_argument
@click.option("-f", "--follow", is_flag=True, help="Go on as it grows, until the machine is deleted.")
@click.option("--console", "which", flag_value="console", default="console", help="What the machine wrote on its console (the default).")
@click.option("--vmm", "which", flag_value="vmm", help="What the program that runs the machine said.")
@click.option("--tooling", "which", flag_value="tooling", help="What the installation of its workspace's tools said.")
@click.option("--json", "as_json", is_flag=True, help="Print pieces as JSON lines.")
def logs(ref: str, follow: bool, which: str, as_json: bool) -> int:
    """Print a machine's console. On a terminal, control characters are made visible instead of obeyed."""
    escape = sys.stdout.isatty()
    with Client.connect() as client:
        if which == "tooling":
            from .workspace_tools import print_tooling_log

            return print_tooling_log(client, ref, follow=follow)
        for chunk in _chunks(client, ref, which, follow=follow):
            if as_json:
                print_json_line(chunk)
            else:
                click.echo(plain(chunk.text) if escape else chunk.text, nl=False)
    return 0


def _chunks(client: Client, ref: str, which: str, *, follow: bool) -> Iterator[LogChunk]:
    offset = 0
    while True:
        try:
            chunk: LogChunk = client.call("vm.logs", {"ref": ref}, query={"which": which, "offset": str(offset)})
        except NotFound:
            if offset == 0:
                raise
            return
        if chunk.text:
            yield chunk
        elif not follow and not chunk.exists:
            note(f"no such log yet: {chunk.path} is made when the machine is started")
            return
        elif not follow:
            return
        else:
            time.sleep(_FOLLOW_INTERVAL)
        offset = chunk.next_offset
