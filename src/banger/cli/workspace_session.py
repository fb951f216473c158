"""Commands in a workspace: they begin in its directory, as its user, and with its tools."""

from __future__ import annotations

import os
import posixpath
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Final

from ..client import Client
from ..model.errors import BangerError
from ..model.records import VMRecord, WorkspaceRecord
from .progress import note
from .session import Process

_WITH_TOOLS: Final = """\
for mise in mise "$HOME/.local/bin/mise"; do
    if command -v "$mise" >/dev/null 2>&1; then
        export MISE_TRUSTED_CONFIG_PATHS={base}
        exec "$mise" exec -- "$@"
    fi
done
exec "$@"
"""


def workspace_process(workspace: WorkspaceRecord | None, process: Process, *, guest_path: str = "") -> Process:
    """``process`` in the workspace: its ``cwd`` is relative to it, its user is the workspace's when none was named.

    A command runs under ``mise exec`` where the guest has mise. Without a workspace, and without ``guest_path``, it stays as it is.
    """
    base = guest_path or (workspace.guest_path if workspace else "")
    if not base:
        return process
    user = process.user or (workspace.user if workspace else "")
    has_shell = workspace is None or workspace.shell
    argv = ("/bin/sh", "-c", _WITH_TOOLS.format(base=shlex.quote(base)), "banger-exec", *process.argv) if process.argv and has_shell else process.argv
    return replace(process, argv=argv, cwd=posixpath.join(base, process.cwd) if process.cwd else base, user=user)


def refresh_workspace(client: Client, record: VMRecord, *, auto_prepare: bool) -> None:
    """Compare the workspace with the host's HEAD: warn when it has moved on, or with ``auto_prepare`` send what changed."""
    workspace = record.runtime.workspace
    if workspace is None or not Path(workspace.source_path).is_dir():
        if auto_prepare:
            raise BangerError(f"{record.name} has no workspace whose source is on this host", hint=f"banger vm workspace prepare {record.name} DIRECTORY")
        return
    if auto_prepare:
        _send_again(client, record, workspace)
    elif workspace.mode != "files" and (head := head_of(workspace.source_path)) and head != workspace.head_commit:
        note(f"the workspace is of commit {workspace.head_commit[:12]}, {workspace.source_path} is at {head[:12]} now: --auto-prepare brings it up to date")


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
