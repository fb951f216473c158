"""``vm exec`` and ``vm shell``."""

from __future__ import annotations

import click

from ..client import Client
from ..model.errors import BadRequest
from .failures import SessionCommand, command_words
from .parameters import vm_argument
from .session import Process, Streams, environment, process_options, run_session, stream_options

_json_option = click.option("--json", "as_json", is_flag=True, help="Accepted for symmetry: all output is the command's own.")


@click.command("exec", cls=SessionCommand)
@vm_argument
@click.argument("misplaced", nargs=-1, metavar="-- COMMAND [ARGS]...")
@process_options
@stream_options
@_json_option
def exec_command(ref: str, misplaced: tuple[str, ...], env: tuple[str, ...], cwd: str, user: str, tty: bool | None, stdin: bool | None, as_json: bool) -> int:
    """Run a command in a machine.

    The exit status is the command's own; 125 means that banger itself failed, 126 that the command cannot be executed, 127 that there is none.
    Ctrl-C goes to the command; without a terminal, a second one leaves it behind with a SIGHUP.
    """
    words = command_words()
    if misplaced or not words:
        raise BadRequest("the command to run must come after `--`", hint=f"banger vm exec {ref} -- {' '.join(misplaced) or 'uname -a'}")
    return _run(ref, Process(argv=words, env=environment(env), cwd=cwd, user=user), Streams(tty=tty, stdin=stdin))


@click.command(cls=SessionCommand)
@vm_argument
@process_options
@stream_options
@_json_option
def shell(ref: str, env: tuple[str, ...], cwd: str, user: str, tty: bool | None, stdin: bool | None, as_json: bool) -> int:
    """Open the user's login shell in a machine. The exit status is the shell's."""
    if command_words():
        raise BadRequest("`vm shell` takes no command", hint=f"banger vm exec {ref} -- ...")
    return _run(ref, Process(env=environment(env), cwd=cwd, user=user), Streams(tty=tty, stdin=stdin))


def _run(ref: str, process: Process, streams: Streams) -> int:
    with Client.connect() as client:
        return run_session(client, ref, process, streams)
