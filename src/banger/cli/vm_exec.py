"""``vm exec`` and ``vm shell``."""

from __future__ import annotations

from typing import Any

import click

from ..api.types import VMDetail
from ..client import Client
from ..model.errors import BadRequest
from .failures import SessionCommand, command_words
from .parameters import MAX_SECONDS, Seconds, vm_argument
from .session import Process, Streams, environment, process_options, run_session, stream_options
from .workspace_session import refresh_workspace, workspace_process

_guest_path_option = click.option("--guest-path", default="", metavar="DIR", help="Directory of the workspace (default: the one that was prepared last).")
_auto_prepare_option = click.option("--auto-prepare", is_flag=True, help="First send what changed on the host since the workspace was prepared.")
_json_option = click.option("--json", "as_json", is_flag=True, help="Accepted for symmetry: all output is the command's own.")


@click.command("exec", cls=SessionCommand)
@vm_argument
@click.argument("misplaced", nargs=-1, metavar="-- COMMAND [ARGS]...")
@process_options
@_guest_path_option
@_auto_prepare_option
@click.option(
    "--timeout", type=Seconds(min=0, min_open=True, max=MAX_SECONDS), metavar="SECONDS", help="End it with SIGTERM after so long; the status is then 124."
)
@stream_options
@click.option("-d", "--detach", is_flag=True, help="Print the id of a job and leave the command to run; see `banger vm job`.")
@_json_option
def exec_command(
    ref: str, misplaced: tuple[str, ...], timeout: float | None, tty: bool | None, stdin: bool | None, detach: bool, as_json: bool, **options: Any
) -> int:
    """Run a command in a machine: in the workspace that was prepared there, if there is one, with its tools.

    The exit status is the command's own; 125 means that banger itself failed, 126 that the command cannot be executed, 127 that there is none.
    Ctrl-C goes to the command; without a terminal, a second one leaves it behind with a SIGHUP.
    """
    words = command_words()
    if misplaced or not words:
        raise BadRequest("the command to run must come after `--`", hint=f"banger vm exec {ref} -- {' '.join(misplaced) or 'uname -a'}")
    if detach and (tty or stdin or timeout):
        raise BadRequest("a job has neither terminal nor stdin nor timeout", hint="leave out --tty, --stdin and --timeout, or --detach")
    with Client.connect() as client:
        process = _process(client, ref, words, options)
        if detach:
            from .vm_job import start_job

            return start_job(client, ref, process, words, as_json=as_json)
        if timeout is None:
            return run_session(client, ref, process, Streams(tty=tty, stdin=stdin))
        from .time_limit import run_limited

        return run_limited(client, ref, process, Streams(tty=tty, stdin=stdin), timeout)


def _process(client: Client, ref: str, words: tuple[str, ...], options: dict[str, Any]) -> Process:
    """What to run: in the machine's workspace unless the words say where."""
    process = Process(argv=words, env=environment(options["env"]), cwd=options["cwd"], user=options["user"])
    detail: VMDetail = client.call("vm.show", {"ref": ref})
    workspace = detail.record.runtime.workspace
    if detail.alive and (workspace is not None or options["auto_prepare"]):
        refresh_workspace(client, detail.record, auto_prepare=options["auto_prepare"])
    return workspace_process(workspace, process, guest_path=options["guest_path"])


@click.command(cls=SessionCommand)
@vm_argument
@process_options
@stream_options
@_json_option
def shell(ref: str, env: tuple[str, ...], cwd: str, user: str, tty: bool | None, stdin: bool | None, as_json: bool) -> int:
    """Open the user's login shell in a machine: in its workspace, if it has one. The exit status is the shell's."""
    if command_words():
        raise BadRequest("`vm shell` takes no command", hint=f"banger vm exec {ref} -- ...")
    with Client.connect() as client:
        detail: VMDetail = client.call("vm.show", {"ref": ref})
        process = workspace_process(detail.record.runtime.workspace, Process(env=environment(env), cwd=cwd, user=user))
        return run_session(client, ref, process, Streams(tty=tty, stdin=stdin))
