"""``vm forward``: ports of this host that lead into a machine for as long as the command runs."""

from __future__ import annotations

import sys

import click

from ..api.types import Forwarding, ForwardVM
from ..client import Client
from ..model.errors import ChannelLost
from ..model.forwards import parse_forward
from .output import print_json_line
from .parameters import vm_argument


@click.command()
@vm_argument
@click.argument("forwards", metavar="[BIND:]HOSTPORT:GUESTPORT...", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="Print the forwards as one JSON line.")
def forward(ref: str, forwards: tuple[str, ...], as_json: bool) -> None:
    """Forward ports of this host to a machine until Ctrl-C.

    HOSTPORT 0 takes one that is free and prints it. Only this host can connect unless BIND says otherwise. `vm set --publish` keeps a port with the
    machine.
    """
    wanted = tuple(parse_forward(text) for text in forwards)
    with Client.connect() as client:
        opened: Forwarding = client.call("vm.forward", {"ref": ref}, ForwardVM(forwards=wanted))
        with client.attach(opened.token) as sock:
            if as_json:
                print_json_line(opened.forwards)
            else:
                click.echo("".join(f"{one.endpoint} -> {ref} port {one.guest_port}\n" for one in opened.forwards), nl=False)
            sys.stdout.flush()
            sock.recv(1)
    raise ChannelLost(f"forwarding ended: {ref} was stopped, or the daemon was", hint=f"see `banger vm show {ref}`")
