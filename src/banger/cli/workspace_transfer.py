"""From a directory that was looked at to a workspace in a machine: what ``run``, ``workspace prepare`` and ``exec --auto-prepare`` share."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import msgspec

from ..api.types import SetWorkspace
from ..client import Client
from ..model.records import VMRecord, WorkspaceRecord
from .progress import note
from .transfer_progress import TransferProgress
from .workspace_lookup import sent_states

if TYPE_CHECKING:
    from ..workspace.guest import Place
    from ..workspace.prepare import Prepared
    from ..workspace.source import Source
    from ..workspace.state import Sent


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """A place in a machine as it is before a prepare."""

    record: VMRecord
    user: str
    place: Place
    sent: Sent | None
    """What this host remembers to have sent there."""


def find_destination(client: Client, record: VMRecord, *, guest_path: str = "", user: str = "") -> Destination:
    """Look at ``guest_path`` ("" = ``repo``) in the home of ``user`` ("" = root). Raises BadRequest, GuestError."""
    from ..client.workspace_guest import ClientGuest
    from ..workspace.guest import find_place

    place = find_place(ClientGuest(client=client, ref=record.id, user=user), guest_path)
    return Destination(record=record, user=user, place=place, sent=sent_states(client).load(record.id, place.path))


def send_workspace(client: Client, find: Callable[[], Destination], look: Callable[[], Source], *, force: bool = False) -> Prepared:
    """Prepare what ``look`` returns at what ``find`` returns, and have the daemon note it. Raises AlreadyExists, BangerError, GuestError.

    The guest is asked while the directory is looked at: both take their time.
    """
    with ThreadPoolExecutor(1) as beside:
        found = beside.submit(find)
        source = look()
    return _send(client, found.result(), source, force=force)


def _send(client: Client, to: Destination, source: Source, *, force: bool) -> Prepared:
    from ..client.workspace_guest import ClientGuest
    from ..workspace.prepare import prepare

    record, path = to.record, to.place.path
    with TransferProgress(shown=True) as progress:
        guest = ClientGuest(client=client, ref=record.id, user=to.user, on_sent=lambda size: progress(size, None))
        prepared = prepare(source, guest, to.place, to.sent, force=force or _was_plain(record, path))
    workspace = replace(prepared.record, user=to.user, tooling_log=_old_log(record, prepared.record))
    client.call("vm.workspace", {"ref": record.id}, SetWorkspace(workspace=workspace))
    _remember(client, to, prepared.sent)
    for notice in prepared.notices[len(source.notices) :]:
        note(notice)
    return replace(prepared, record=workspace)


def _remember(client: Client, to: Destination, sent: Sent | None) -> None:
    states, vm, path = sent_states(client), to.record.id, to.place.path
    if sent is None:
        states.forget(vm, path)
        return
    if (sent := msgspec.structs.replace(sent, user=to.user)) != to.sent:
        states.save(vm, path, sent)
    if to.sent is None:
        states.forget_others({one.id for one in client.call("vm.list")})


def _was_plain(record: VMRecord, path: str) -> bool:
    """What is at ``path`` are files that a prepare without git brought, which leaves no mark."""
    before = record.runtime.workspace
    return before is not None and before.mode == "files" and before.guest_path == path


def _old_log(record: VMRecord, workspace: WorkspaceRecord) -> str:
    before = record.runtime.workspace
    return before.tooling_log if before is not None and before.guest_path == workspace.guest_path else ""
