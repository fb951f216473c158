"""``banger daemon``: neither verb starts one."""

from __future__ import annotations

import os
import select
from typing import Final

import click

from ..api.types import DaemonStatus
from ..client import Client
from ..client.discovery import find_endpoint
from ..model.errors import BangerError, NoDaemon
from .failures import FAILED
from .output import ago, local_time, print_fields, print_json
from .parameters import json_option

STOP_DEADLINE: Final = 30.0


@click.group()
def daemon() -> None:
    """The daemon behind the commands. It starts when it is needed; machines outlive it."""


@daemon.command()
@json_option
def status(as_json: bool) -> None:
    """Show the daemon's process, socket and log; status 1 when none runs, or something else answers."""
    try:
        with Client.connect(start=False) as client:
            found: DaemonStatus = client.call("daemon.status")
    except NoDaemon as error:
        _say_none(as_json=as_json, reason=error.message)
        raise click.exceptions.Exit(FAILED) from None
    if as_json:
        print_json(found)
        return
    print_fields(
        [
            ("pid", str(found.pid)),
            ("version", found.version),
            ("started", f"{local_time(found.started_at)} ({ago(found.started_at)})"),
            ("running machines", str(found.running_vms)),
            ("socket", found.socket),
            ("log", found.log),
            ("state", found.state_directory),
        ]
    )


@daemon.command()
@json_option
def stop(as_json: bool) -> None:
    """Stop the daemon; machines keep running, and the next command starts a new one."""
    try:
        client = Client.connect(start=False)
    except NoDaemon as error:
        _say_none(as_json=as_json, reason=error.message)
        return
    with client:
        pid = client.call("daemon.status").pid
        pidfd = _open_pidfd(pid)
        try:
            stopped: DaemonStatus = client.call("daemon.stop")
            _wait_gone(pidfd, pid)
        finally:
            if pidfd is not None:
                os.close(pidfd)
    print_json(stopped) if as_json else click.echo(f"stopped (pid {pid}); {_machines(stopped.running_vms)} running")


def _machines(count: int) -> str:
    return "1 machine keeps" if count == 1 else f"{count} machines keep"


def _open_pidfd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None


def _wait_gone(pidfd: int | None, pid: int) -> None:
    """Return when the daemon has ended, so that the next command does not meet it on its way out."""
    if pidfd is not None and not select.select([pidfd], [], [], STOP_DEADLINE)[0]:
        raise BangerError(f"the daemon (pid {pid}) still works after {STOP_DEADLINE:g} s", hint="`banger daemon status` names its log")


def _say_none(*, as_json: bool, reason: str) -> None:
    socket = str(find_endpoint().api)
    if as_json:
        print_json({"running": False, "socket": socket, "reason": reason})
    else:
        click.echo(f"no daemon is running (socket {socket})")
