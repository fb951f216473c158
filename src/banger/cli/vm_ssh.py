"""``vm ssh``: the system's ssh, with the configuration of this instance."""

from __future__ import annotations

import shlex

import click

from ..api.types import SshFiles, VMDetail
from ..client import Client
from ..model.errors import BadRequest, NotRunning
from .failures import SessionCommand, command_words
from .parameters import vm_argument


@click.command(cls=SessionCommand)
@vm_argument
@click.argument("misplaced", nargs=-1, metavar="[-- COMMAND [ARGS]...]")
@click.option("-t", "--tty", is_flag=True, help="Give the command a terminal.")
@click.option("-u", "--user", default="", help="User of the machine (default: root).")
@click.option("--json", "as_json", is_flag=True, help="Accepted for symmetry: all output is ssh's own.")
def ssh(ref: str, misplaced: tuple[str, ...], tty: bool, user: str, as_json: bool) -> int:
    """Log in to a machine by ssh, or run a command so; the exit status is ssh's.

    Needs an ssh server in the image; `vm shell` and `vm exec` do not. The same works as `ssh NAME.vm` after `banger ssh-config --install`.
    """
    from ..host.run import become

    words = command_words()
    if misplaced or words == ():
        raise BadRequest("the command to run must come after `--`", hint=f"banger vm ssh {ref} -- {' '.join(misplaced) or 'uname -a'}")
    with Client.connect() as client:
        detail: VMDetail = client.call("vm.show", {"ref": ref.removesuffix(".vm")})
        record = detail.record
        if not detail.alive:
            raise NotRunning(f"{record.name} is not running (state {record.state})", hint=f"banger vm start {record.name}")
        files: SshFiles = client.call("ssh.show")
    options = ["-F", files.config, *(["-t"] if tty else []), *(["-l", user] if user else [])]
    become(["ssh", *options, f"{record.name}.vm", *([shlex.join(words)] if words else [])])
