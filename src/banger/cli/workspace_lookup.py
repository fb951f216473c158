"""Which workspace of a machine is meant, whose it is there, and what of this host it was prepared from."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..client import Client
from ..client.discovery import find_layout
from ..model.errors import BadRequest, NotFound
from ..model.records import VMRecord, WorkspaceRecord

if TYPE_CHECKING:
    from ..workspace.repository import Repository
    from ..workspace.state import SentStates


@dataclass(frozen=True, slots=True, kw_only=True)
class Workspace:
    """A directory in a machine."""

    guest_path: str
    user: str
    """"" = root."""
    source_path: str
    """"" when this host does not know what was prepared there."""


def find_workspace(client: Client, record: VMRecord, guest_path: str) -> Workspace:
    """The workspace at ``guest_path``; "" = the one that was prepared last. Raises NotFound when there was none, GuestError."""
    last = record.runtime.workspace
    if not guest_path:
        last = recorded(record)
        return Workspace(guest_path=last.guest_path, user=last.user, source_path=last.source_path)
    user = last.user if last else ""
    path = _absolute(client, record, guest_path, user)
    if last is not None and path == last.guest_path:
        return Workspace(guest_path=path, user=user, source_path=last.source_path)
    sent = sent_states(client).load(record.id, path)
    return Workspace(guest_path=path, user=sent.user if sent else user, source_path=sent.root if sent else "")


def recorded(record: VMRecord) -> WorkspaceRecord:
    """The workspace that was prepared last. Raises NotFound."""
    if record.runtime.workspace is None:
        raise NotFound(f"{record.name} has no workspace", hint=f"banger vm workspace prepare {record.name} DIRECTORY")
    return record.runtime.workspace


def home_repository(record: VMRecord, workspace: Workspace, path: str) -> Repository:
    """The repository ``path``; "" = the one that the workspace was prepared from, and never another. Raises BadRequest."""
    from ..workspace.repository import open_repository

    source = path or workspace.source_path
    hint = f"name the repository after the machine: {record.name} DIRECTORY"
    if not source:
        raise BadRequest(f"nothing here tells what {workspace.guest_path} in {record.name} was prepared from", hint=hint)
    if not path and not Path(source).is_dir():
        raise BadRequest(f"{source}, which {workspace.guest_path} in {record.name} was prepared from, is not there any more", hint=hint)
    return open_repository(source)


def sent_states(client: Client) -> SentStates:
    """What this host remembers to have sent to machines."""
    from ..workspace.state import SentStates

    return SentStates((client.endpoint.layout or find_layout()).workspace_cache)


def _absolute(client: Client, record: VMRecord, guest_path: str, user: str) -> str:
    """``guest_path`` as prepare wrote it down: only the guest knows where a home is."""
    if guest_path.startswith("/"):
        return "/" + posixpath.normpath(guest_path).strip("/")
    from ..client.workspace_guest import ClientGuest
    from ..workspace.guest import find_place

    return posixpath.normpath(find_place(ClientGuest(client=client, ref=record.id, user=user), guest_path).path)
