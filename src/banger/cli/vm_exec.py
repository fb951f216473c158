"""``vm exec`` and ``vm shell``."""

from __future__ import annotations

import click

from ..client import Client
from ..model.errors import BadRequest
from .failures import SessionCommand, command_words
from .parameters import vm_argument
from .session import Process, Streams, run_session, stream_options

_env_option = click.option("-e", "--env", "env", metavar="NAME=VALUE", multiple=True, help="Set a variable; NAME alone takes the caller's value.")
_cwd_option = click.option("-w", "--cwd", default="", help="Directory to start in (default: the user's home).")
_user_option = click.option("-u", "--user", default="", help="User of the machine, by name or number (default: root).")
_json_option = click.option("--json", "as_json", is_flag=True, help="Accepted for symmetry: all output is the command's own.")


@click.command("exec", cls=SessionCommand)
@vm_argument
@click.argument("misplaced", nargs=-1, metavar="-- COMMAND [ARGS]...")
@_env_option
@_cwd_option
@_user_option
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
    return _run(ref, Process(argv=words, env=_environment(env), cwd=cwd, user=user), Streams(tty=tty, stdin=stdin))


@click.command(cls=SessionCommand)
@vm_argument
@_env_option
@_cwd_option
@_user_option
@stream_options
@_json_option
def shell(ref: str, env: tuple[str, ...], cwd: str, user: str, tty: bool | None, stdin: bool | None, as_json: bool) -> int:
    """Open the user's login shell in a machine. The exit status is the shell's."""
    if command_words():
        raise BadRequest("`vm shell` takes no command", hint=f"banger vm exec {ref} -- ...")
    return _run(ref, Process(env=_environment(env), cwd=cwd, user=user), Streams(tty=tty, stdin=stdin))


def _run(ref: str, process: Process, streams: Streams) -> int:
    with Client.connect() as client:
        return run_session(client, ref, process, streams)


def _environment(words: tuple[str, ...]) -> dict[str, str]:
    import os

    env: dict[str, str] = {}
    for word in words:
        name, assigned, value = word.partition("=")
        if not name:
            raise BadRequest(f"--env {word!r} has no name", hint="write --env NAME=VALUE")
        if assigned:
            env[name] = value
        elif name in os.environ:
            env[name] = os.environ[name]
    return env
