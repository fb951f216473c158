"""``banger vm workspace``: a directory of the host in a machine, and the way back."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..api.types import VMDetail
from ..client import Client
from ..host.files import write_atomically
from ..model.errors import BadRequest, BangerError
from ..model.records import VMRecord
from .output import print_json, print_table
from .parameters import json_option, vm_argument
from .progress import note
from .style import plain
from .workspace_lookup import Workspace, find_workspace, home_repository
from .workspace_source import print_dry_run, source_of, source_options

if TYPE_CHECKING:
    from ..workspace.apply import Change
    from ..workspace.export import Patch
    from ..workspace.repository import Repository

_guest_path_option = click.option("--guest-path", default="", metavar="DIR", help="Where it is in the machine (default: where it was prepared, else ~/repo).")
_base_option = click.option(
    "--base-commit", default="", metavar="REV", help="Compare with this commit of the machine's repository, not with what was prepared."
)
_source_argument = click.argument("path", default="", metavar="[DIRECTORY]")


@click.group()
def workspace() -> None:
    """Bring a directory into a machine, and the work back."""


@workspace.command()
@vm_argument
@click.argument("path", default=".", metavar="[DIRECTORY]")
@source_options
@_guest_path_option
@click.option("-u", "--user", default="", help="Whose it shall be, by name or number (default: root).")
@click.option("--force", is_flag=True, help="Write over what is there, and leave commits of the machine behind.")
@json_option
def prepare(ref: str, path: str, guest_path: str, user: str, force: bool, dry_run: bool, as_json: bool, **options: Any) -> None:
    """Bring a directory (default: the current one) into a running machine; the next time, only what changed.

    Tracked files come as they are in the working tree, with the index and 10 generations of history. What was edited in the machine stays, unless the same
    file was changed here too. The repository here is only read.
    """
    from .workspace_transfer import Destination, find_destination, send_workspace

    if dry_run:
        print_dry_run(source_of(path, options), as_json=as_json)
        return

    def find() -> Destination:
        record = _record(client, ref)
        return find_destination(client, record, guest_path=guest_path or _old_path(record), user=user or _old_user(record))

    with Client.connect() as client:
        prepared = send_workspace(client, find, lambda: source_of(path, options), force=force)
    if as_json:
        print_json(prepared.record)
    else:
        note(f"{prepared.record.guest_path}: {prepared.files} file{'' if prepared.files == 1 else 's'} sent, {prepared.removed} removed")


@workspace.command()
@vm_argument
@_guest_path_option
@_base_option
@click.option("-o", "--output", default="-", metavar="FILE", help="Write the patch there (default: stdout).")
@click.option("--json", "as_json", is_flag=True, help="Print base, size and number of files instead; needs --output.")
def export(ref: str, guest_path: str, base_commit: str, output: str, as_json: bool) -> None:
    """Print what was changed in a machine as a patch: commits, staged, unstaged and untracked files, byte for byte."""
    if as_json and output == "-":
        raise BadRequest("--json needs --output", hint="both would write to stdout")
    with Client.connect() as client:
        record = _record(client, ref)
        found = find_workspace(client, record, guest_path)
        patch = _export(client, record, found, base_commit)
    if output == "-":
        click.echo(patch.untrusted_content, nl=False)
        return
    try:
        write_atomically(Path(output).absolute(), patch.untrusted_content, mode=0o644)
    except OSError as error:
        raise BangerError(f"cannot write {output}: {error.strerror}") from error
    if as_json:
        _print_summary(patch, found.guest_path)


def _print_summary(patch: Patch, place: str) -> None:
    size = len(patch.untrusted_content)
    print_json({"guest_path": place, "base_commit": patch.base_commit, "patch_bytes": size, "changed_files": patch.changed_files, "has_changes": size > 0})


@workspace.command()
@vm_argument
@_guest_path_option
@_base_option
@click.option("--json", "as_json", is_flag=True, help="Print base, size and number of files instead.")
def diff(ref: str, guest_path: str, base_commit: str, as_json: bool) -> None:
    """Show what was changed in a machine. On a terminal, control characters are made visible instead of obeyed."""
    with Client.connect() as client:
        record = _record(client, ref)
        found = find_workspace(client, record, guest_path)
        patch = _export(client, record, found, base_commit)
    if as_json:
        _print_summary(patch, found.guest_path)
    elif sys.stdout.isatty():
        click.echo(plain(patch.untrusted_content.decode(errors="replace")), nl=False)
    else:
        click.echo(patch.untrusted_content, nl=False)


@workspace.command()
@vm_argument
@_source_argument
@_guest_path_option
@json_option
def fetch(ref: str, path: str, guest_path: str, as_json: bool) -> None:
    """Fetch a machine's commits, and a commit of what is not committed there, as refs/banger/VM/... of the repository that it was prepared from.

    Branches keep their names; `worktree` is what was not committed. Nothing is checked out, merged or executed.
    """
    from ..client.workspace_guest import ClientGuest
    from ..workspace.fetch import fetch_commits

    with Client.connect() as client:
        record = _record(client, ref)
        found = find_workspace(client, record, guest_path)
        repository = home_repository(record, found, path)
        fetched = fetch_commits(repository, ClientGuest(client=client, ref=record.id, user=found.user), found.guest_path, record.name)
    if as_json:
        print_json([{"ref": one.ref, "commit": one.commit, "before": one.before} for one in fetched])
        return
    print_table(("REF", "COMMIT", ""), [(one.ref, one.commit[:12], _news(one.before, one.commit)) for one in fetched])


def _news(before: str, commit: str) -> str:
    return "new" if not before else "unchanged" if before == commit else f"was {before[:12]}"


@workspace.command()
@vm_argument
@_source_argument
@_guest_path_option
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@json_option
def apply(ref: str, path: str, guest_path: str, yes: bool, as_json: bool) -> int:
    """Apply what was changed in a machine to the working tree that it was prepared from: all of it where it fits, else nothing.

    Index and history stay as they are.
    """
    from ..workspace.apply import apply_patch, check_patch

    with Client.connect() as client:
        record = _record(client, ref)
        found = find_workspace(client, record, guest_path)
        repository = home_repository(record, found, path)
        patch = _export(client, record, found, "", may_compare=False)
    changes = check_patch(repository, patch.untrusted_content)
    if not as_json:
        _show_changes(changes)
    if changes and not yes and not _ask(repository, len(changes)):
        note("not applied")
        return 1
    apply_patch(repository, patch.untrusted_content)
    if as_json:
        print_json({"changed_files": len(changes), "root": str(repository.root)})
    return 0


def _show_changes(changes: tuple[Change, ...]) -> None:
    for change in changes:
        lines = "binary" if change.added is None else f"+{change.added} -{change.removed}"
        click.echo(f"{lines:>12}  {_on_one_line(change.path)}", err=True)
    if not changes:
        note("nothing was changed")


def _on_one_line(untrusted_path: str) -> str:
    """A name from the guest must not look like several of them."""
    return plain(untrusted_path).replace("\n", "\\n").replace("\t", "\\t")


def _ask(repository: Repository, count: int) -> bool:
    if not sys.stdin.isatty():
        raise BadRequest("nobody to ask whether to apply this", hint="use --yes")
    return click.confirm(f"Apply these {count} changes to {plain(str(repository.root))}?", err=True)


def _export(client: Client, record: VMRecord, found: Workspace, base_commit: str, *, may_compare: bool = True) -> Patch:
    from ..client.workspace_guest import ClientGuest
    from ..workspace.export import export_patch

    guest = ClientGuest(client=client, ref=record.id, user=found.user)
    return export_patch(guest, found.guest_path, base_commit=base_commit, may_compare=may_compare)


def _record(client: Client, ref: str) -> VMRecord:
    detail: VMDetail = client.call("vm.show", {"ref": ref})
    return detail.record


def _old_path(record: VMRecord) -> str:
    return record.runtime.workspace.guest_path if record.runtime.workspace else ""


def _old_user(record: VMRecord) -> str:
    return record.runtime.workspace.user if record.runtime.workspace else ""
