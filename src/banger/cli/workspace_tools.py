"""The tools of a workspace: installed in the guest after it was prepared, while the user waits or behind his back, and never a reason to fail."""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import TYPE_CHECKING

from ..api.types import SetWorkspace, VMDetail
from ..client import Client
from ..model.errors import BangerError, NotFound
from ..model.records import VMRecord, WorkspaceRecord
from .progress import note
from .session import Process, Streams, run_session

if TYPE_CHECKING:
    from ..workspace.source import Source


def install_tools(client: Client, record: VMRecord, workspace: WorkspaceRecord, source: Source, *, background: bool) -> None:
    """Install what the repository asks for, in the guest, with a log there. What goes wrong is a line for the user and nothing more."""
    from ..client.workspace_guest import ClientGuest
    from ..workspace.guest import find_place
    from ..workspace.tooling import install_script, log_path, plan_tools

    plan = plan_tools(source.root)
    if plan.is_empty:
        return
    try:
        guest = ClientGuest(client=client, ref=record.id, user=workspace.user)
        place = find_place(guest, workspace.guest_path)
        log = log_path(place, source.root.name or "repo")
        client.call("vm.workspace", {"ref": record.id}, SetWorkspace(workspace=replace(workspace, tooling_log=log)))
        script = install_script(plan, place, log)
        if background:
            script = f"nohup setsid sh -c {shlex.quote(script)} </dev/null >/dev/null 2>&1 &"
        tools = ", ".join([*(f"{step.tool} {step.version}" for step in plan.steps), *plan.managed])
        note(f"installing tools{' in the background' if background else ''}: {tools} (`banger vm logs --tooling {record.name}`)")
        guest.run(("/bin/sh", "-c", script))
    except BangerError as error:
        note(f"the tools were not installed: {error.message}")


def print_tooling_log(client: Client, ref: str, *, follow: bool) -> int:
    """The log of the last installation, from the running guest."""
    detail: VMDetail = client.call("vm.show", {"ref": ref})
    workspace = detail.record.runtime.workspace
    if workspace is None or not workspace.tooling_log:
        raise NotFound(f"no tools were installed in {detail.record.name}", hint="`banger vm run DIRECTORY --nat` does, for repositories that ask for some")
    argv = ("tail", "-n", "+1", *(("-f",) if follow else ()), workspace.tooling_log)
    return run_session(client, detail.record.id, Process(argv=argv, user=workspace.user), Streams(tty=False, stdin=False))
