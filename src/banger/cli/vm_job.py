"""``vm jobs`` and ``vm job``: commands that go on without their caller."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import click

from ..api.guest_types import Job, SignalJob, StartedJob, StartJob
from ..client import Client
from ..model.errors import BangerError
from .failures import SessionCommand, report_error
from .parameters import json_option, vm_argument
from .session import Process, not_started, sendable

if TYPE_CHECKING:
    from ..client.stream import Ended

_id_argument = click.argument("job_id", metavar="ID")


@click.command()
@vm_argument
@json_option
def jobs(ref: str, as_json: bool) -> None:
    """List the jobs of a machine: commands started with `vm exec -d`. The newest 256 are kept."""
    from .output import ago, print_json, print_table

    with Client.connect() as client:
        found: tuple[Job, ...] = client.call("vm.jobs", {"ref": ref})
    if as_json:
        print_json(found)
        return
    print_table(("ID", "STATE", "STARTED", "USER", "COMMAND"), [(one.id, _state(one), ago(one.started_at), one.user, one.command) for one in found])


def _state(job: Job) -> str:
    return f"exited ({job.exit_status})" if job.state == "ended" else job.state


@click.group()
def job() -> None:
    """Look after one job of a machine: a command started with `vm exec -d`."""


@job.command()
@vm_argument
@_id_argument
@click.option("-f", "--follow", is_flag=True, help="Go on until it ends; Ctrl-C leaves it running.")
@click.option("--json", "as_json", is_flag=True, help="Accepted for symmetry: all output is the job's own.")
def logs(ref: str, job_id: str, follow: bool, as_json: bool) -> None:
    """Print what a job wrote: its stdout on stdout, its stderr on stderr."""
    with Client.connect() as client:
        _output(client, ref, job_id, "both", follow=follow)


@job.command(cls=SessionCommand)
@vm_argument
@_id_argument
@json_option
def wait(ref: str, job_id: str, as_json: bool) -> int:
    """Wait until a job ends. The exit status is the job's."""
    with Client.connect() as client:
        ended = _output(client, ref, job_id, "none", follow=True)
    if ended.message:
        report_error(BangerError(ended.message))
    if as_json:
        from .output import print_json_line

        print_json_line({"id": job_id, "exit_status": ended.status})
    return ended.status


@job.command()
@vm_argument
@_id_argument
@click.option("-s", "--signal", "signal_name", default="TERM", show_default=True, help="Name or number of the signal.")
@json_option
def kill(ref: str, job_id: str, signal_name: str, as_json: bool) -> None:
    """Send a signal to a job's process group."""
    with Client.connect() as client:
        signalled: Job = client.call("vm.job_signal", {"ref": ref, "id": job_id}, SignalJob(signal=signal_name))
    if as_json:
        from .output import print_json

        print_json(signalled)


def start_job(client: Client, ref: str, process: Process, words: Sequence[str], *, as_json: bool) -> int:
    """Start ``process``, listed as ``words``, and print its id; the exit status, 126 or 127 when the command cannot be started."""
    request = StartJob(
        argv=tuple(map(sendable, process.argv)),
        env={sendable(name): sendable(value) for name, value in process.env.items()},
        cwd=sendable(process.cwd),
        user=sendable(process.user),
        label=" ".join(words),
    )
    started: StartedJob = client.call("vm.job_start", {"ref": ref}, request)
    if started.exit_status is not None:
        report_error(not_started(started.exit_status, started.message, client.last_op_id))
        return started.exit_status
    if as_json:
        from .output import print_json

        print_json(started)
    else:
        click.echo(started.id)
    return 0


def _output(client: Client, ref: str, job_id: str, which: Literal["both", "none"], *, follow: bool) -> Ended:
    """Print a job's output, or wait for its end."""
    from ..client.follow import Follower

    return Follower(client=client, ref=ref, job_id=job_id, which=which, follow=follow).run()
