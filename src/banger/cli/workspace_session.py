"""Commands in a workspace: they begin in its directory, as its user, and with its tools."""

from __future__ import annotations

import os
import posixpath
from dataclasses import replace
from pathlib import Path
from typing import Final

from ..client import Client
from ..model.errors import BangerError
from ..model.records import VMRecord, WorkspaceRecord
from .progress import note
from .session import Process
from .tools_script import with_tools
from .workspace_lookup import sent_states

_FILES_LIMIT: Final = 10_000
_STATE_LIMIT: Final = 4 * 1024 * 1024
"""So much is looked at before a command: some hundredths of a second."""


def workspace_process(workspace: WorkspaceRecord | None, process: Process, *, guest_path: str = "") -> Process:
    """``process`` in the workspace: its ``cwd`` is relative to it, its user is the workspace's when none was named.

    A command runs under ``mise exec`` where the guest has mise. It stays as it is without a workspace and ``guest_path``, and for another user who says no
    directory: he begins in his home, because the workspace may be closed to him.
    """
    if workspace and process.user and not (guest_path or process.cwd) and _plain_user(process.user) != _plain_user(workspace.user):
        return process
    base = guest_path or (workspace.guest_path if workspace else "")
    if not base:
        return process
    user = process.user or (workspace.user if workspace else "")
    has_shell = workspace is None or workspace.shell
    argv = with_tools(base, process.argv) if process.argv and has_shell else process.argv
    return replace(process, argv=argv, cwd=posixpath.join(base, process.cwd) if process.cwd else base, user=user)


def _plain_user(name: str) -> str:
    return "root" if name in ("", "0") else name


def refresh_workspace(client: Client, record: VMRecord, *, auto_prepare: bool) -> None:
    """Compare the workspace with the host's HEAD and files: warn when they have moved on, or with ``auto_prepare`` send what changed."""
    workspace = record.runtime.workspace
    if workspace is None or not Path(workspace.source_path).is_dir():
        if auto_prepare:
            raise BangerError(f"{record.name} has no workspace whose source is on this host", hint=f"banger vm workspace prepare {record.name} DIRECTORY")
        return
    if auto_prepare:
        _send_again(client, record, workspace)
    elif workspace.mode != "files" and (head := head_of(workspace.source_path)) and head != workspace.head_commit:
        note(f"the workspace is of commit {workspace.head_commit[:12]}, {workspace.source_path} is at {head[:12]} now: --auto-prepare brings it up to date")
    elif changed := _count_changed(client, record, workspace):
        files = "1 file" if changed == 1 else f"{changed} files"
        note(f"{files} of the workspace changed in {workspace.source_path} since it was prepared: --auto-prepare brings it up to date")


def _count_changed(client: Client, record: VMRecord, workspace: WorkspaceRecord) -> int:
    """Files that are not as they were sent any more; 0 when that would take too long to find out."""
    from ..workspace.state import count_changed

    sent = sent_states(client).load(record.id, workspace.guest_path, limit=_STATE_LIMIT)
    if sent is None or sent.id != workspace.id or len(sent.files) > _FILES_LIMIT:
        return 0
    return count_changed(sent)


def _send_again(client: Client, record: VMRecord, workspace: WorkspaceRecord) -> None:
    from ..workspace.source import Options, look_at
    from .workspace_transfer import find_destination, send_workspace

    own_branch = workspace.branch if workspace.base_commit != workspace.head_commit else ""
    options = Options(
        branch=own_branch,
        base=workspace.base_commit if own_branch else "",
        full=workspace.mode == "full",
        no_git=workspace.mode == "files",
        include_untracked=workspace.include_untracked,
    )
    send_workspace(
        client,
        find=lambda: find_destination(client, record, guest_path=workspace.guest_path, user=workspace.user),
        look=lambda: look_at(workspace.source_path, options),
    )


def head_of(path: str) -> str:
    """The commit that is checked out at ``path``; "" when git cannot say."""
    from ..workspace.git import Git

    done = Git.of_user(Path(os.fsdecode(path))).run("rev-parse", "-q", "--verify", "HEAD^{commit}", allowed=(0, 1, 128))
    return done.stdout.decode(errors="replace").strip()
