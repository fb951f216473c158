"""``vm connect``: stdin and stdout joined with a socket in a machine. ssh runs it as its ProxyCommand."""

from __future__ import annotations

import os
import signal
import time
from typing import Final

import click

from ..api.types import ConnectVM, StreamTicket, VMDetail
from ..client import Client
from ..client.join import Joined
from ..model.errors import BadRequest, BangerError, GuestError, GuestTimeout
from .parameters import vm_argument

BOOT_SECONDS: Final = 90.0
"""How long a machine may take to have what listens in it up."""
_RETRY_SECONDS: Final = 0.2
_NOT_YET: Final = ("refused", "not_found")
_SSH: Final = 22


@click.command()
@vm_argument
@click.argument("target", metavar="PORT|PATH")
@click.option("--json", "as_json", is_flag=True, help="Accepted for symmetry: all output is the connection's own.")
def connect(ref: str, target: str, as_json: bool) -> int:
    """Connect stdin and stdout to PORT on the machine's 127.0.0.1, or to the unix socket PATH in it.

    VM may also be written NAME.vm. While the machine boots, it waits for somebody to listen there. The end of stdin closes that direction alone.
    """
    request = parse_target(target)
    with Client.connect() as client:
        vm = ref.removesuffix(".vm")
        deadline = time.monotonic() + BOOT_SECONDS
        booted = False
        while True:
            ticket: StreamTicket = client.call("vm.connect", {"ref": vm}, request)
            with client.attach(ticket.token) as sock:
                joined = Joined(sock)
                try:
                    joined.wait_open()
                except GuestError as error:
                    if error.guest_code not in _NOT_YET:
                        raise
                    booted = _go_on(client, vm, target, error, booted=booted, deadline=deadline)
                    continue
                return _run(joined)


def parse_target(target: str) -> ConnectVM:
    """What to connect to; raises BadRequest."""
    if target.startswith("/"):
        return ConnectVM(path=target)
    if target.isascii() and target.isdigit() and 0 < int(target[:6]) <= 0xFFFF:
        return ConnectVM(port=int(target))
    raise BadRequest(f"{target!r} is neither a port nor the path of a unix socket", hint="ports are 1 to 65535, a path begins with /")


def _go_on(client: Client, vm: str, target: str, error: GuestError, *, booted: bool, deadline: float) -> bool:
    """Wait a moment when the machine still boots, and return whether it is up by now; raises when there is nothing to wait for."""
    if booted:
        raise _nobody(client, vm, target, error)
    if time.monotonic() > deadline:
        text = f"{vm} is not up after {BOOT_SECONDS:g} s, and nothing listens on {target} in it" + (": sshd did not start" if target == str(_SSH) else "")
        raise GuestTimeout(text, hint=f"banger vm logs {vm}; banger vm shell {vm}")
    detail: VMDetail = client.call("vm.show", {"ref": vm})
    if not detail.record.runtime.booted:
        time.sleep(_RETRY_SECONDS)
    return detail.record.runtime.booted


def _nobody(client: Client, vm: str, target: str, error: GuestError) -> BangerError:
    name = client.call("vm.show", {"ref": vm}).record.name
    if target != str(_SSH):
        return GuestError(f"{name}: {error.message}", hint=f"`banger vm ports {name}` shows what listens in it")
    return GuestError(
        f"{name} is up and nothing listens on port {_SSH} in it: its image has no sshd, or sshd did not start",
        hint=f"without one: banger vm shell {name}, banger vm exec {name} -- COMMAND; what happened at boot: banger vm logs {name}",
    )


def _run(joined: Joined) -> int:
    try:
        joined.run(0, 1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 128 + signal.SIGPIPE
    return 0
