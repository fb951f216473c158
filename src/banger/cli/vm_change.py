"""``vm start``, ``stop``, ``restart``, ``kill`` and ``delete``: each takes several machines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from ..api.messages import Request
from ..api.types import KillVM, StartVM, StopVM
from ..client import Client
from .batch import run_batch, vm_targets
from .parameters import Seconds, json_option, vms_argument, wait_option
from .progress import Progress, progress

_MAX_STOP_SECONDS = 3600


def change_each(call: str, refs: Sequence[str], request: Request | None, *, as_json: bool, shown: bool = False) -> None:
    """Run one operation on each machine. ``shown``: worth watching, when it is only one."""

    def action(client: Client, ref: str) -> Any:
        with progress() if shown and len(targets) == 1 and not as_json else Progress() as report:
            return client.operation(call, {"ref": ref}, request, on_event=report)

    with Client.connect() as client:
        targets = vm_targets(client, refs)
        run_batch(client, targets, action, as_json=as_json)


@click.command()
@vms_argument
@wait_option
@json_option
def start(refs: tuple[str, ...], wait: Any, as_json: bool) -> None:
    """Start machines. One that runs already is left alone."""
    change_each("vm.start", refs, StartVM(wait=wait), as_json=as_json, shown=True)


@click.command()
@vms_argument
@click.option("--timeout", type=Seconds(0, _MAX_STOP_SECONDS), default=15.0, show_default=True, help="Seconds the system may take before it is ended.")
@json_option
def stop(refs: tuple[str, ...], timeout: float, as_json: bool) -> None:
    """Power machines off; their disks stay."""
    change_each("vm.stop", refs, StopVM(timeout=timeout), as_json=as_json, shown=True)


@click.command()
@vms_argument
@wait_option
@json_option
def restart(refs: tuple[str, ...], wait: Any, as_json: bool) -> None:
    """Stop and start machines."""
    change_each("vm.restart", refs, StartVM(wait=wait), as_json=as_json, shown=True)


@click.command()
@vms_argument
@click.option("--signal", default="TERM", show_default=True, help="Signal for the machine's process, such as TERM, KILL or 9.")
@json_option
def kill(refs: tuple[str, ...], signal: str, as_json: bool) -> None:
    """End machines at once, as if the plug were pulled; for those that do not stop."""
    change_each("vm.kill", refs, KillVM(signal=signal.upper().removeprefix("SIG")), as_json=as_json)


@click.command()
@vms_argument
@json_option
def delete(refs: tuple[str, ...], as_json: bool) -> None:
    """Remove machines and their disks, running or not. This cannot be undone."""
    change_each("vm.delete", refs, None, as_json=as_json)
