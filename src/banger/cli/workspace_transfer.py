"""From a directory that was looked at to a workspace in a machine: what ``run``, ``workspace prepare`` and ``exec --auto-prepare`` share."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..api.types import SetWorkspace
from ..client import Client
from ..host.paths import Layout
from ..model.records import VMRecord, WorkspaceRecord
from .progress import note
from .transfer_progress import TransferProgress

if TYPE_CHECKING:
    from ..workspace.prepare import Prepared
    from ..workspace.source import Source


def send_workspace(
    client: Client, record: VMRecord, source: Source, *, guest_path: str = "", user: str = "", force: bool = False, tooling_log: str = "", quiet: bool = False
) -> Prepared:
    """Prepare ``source`` in the machine and have the daemon note it. Raises AlreadyExists, BangerError, GuestError."""
    from ..client.workspace_guest import ClientGuest
    from ..workspace.guest import find_place
    from ..workspace.prepare import prepare
    from ..workspace.state import SentStates

    states = SentStates((client.endpoint.layout or Layout.from_environment()).workspace_cache)
    with TransferProgress(shown=not quiet) as progress:
        guest = ClientGuest(client=client, ref=record.id, user=user, on_sent=lambda size: progress(size, None))
        place = find_place(guest, guest_path)
        sent = states.load(record.id, place.path)
        prepared = prepare(source, guest, place, sent, force=force or _was_plain(record, place.path))
    workspace = replace(prepared.record, user=user, tooling_log=tooling_log or _old_log(record, prepared.record))
    client.call("vm.workspace", {"ref": record.id}, SetWorkspace(workspace=workspace))
    if prepared.sent is not None:
        if prepared.sent != sent:
            states.save(record.id, place.path, prepared.sent)
        if sent is None:
            states.forget_others({one.id for one in client.call("vm.list")})
    for notice in prepared.notices[len(source.notices) :]:
        note(notice)
    return replace(prepared, record=workspace)


def _was_plain(record: VMRecord, path: str) -> bool:
    """What is at ``path`` are files that a prepare without git brought, which leaves no mark."""
    before = record.runtime.workspace
    return before is not None and before.mode == "files" and before.guest_path == path


def _old_log(record: VMRecord, workspace: WorkspaceRecord) -> str:
    before = record.runtime.workspace
    return before.tooling_log if before is not None and before.guest_path == workspace.guest_path else ""
