"""The directory that becomes a workspace: options, the look at it before anything is made, and ``--dry-run``."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from ..model.errors import BadRequest
from .output import print_json
from .progress import note
from .style import plain

if TYPE_CHECKING:
    from ..workspace.source import Options, Source

F = TypeVar("F", bound=Callable[..., Any])

_SOURCE_OPTIONS: Final = (
    click.option("--branch", default="", metavar="NAME", help="Make this branch in the machine and check it out there."),
    click.option("--from", "base", default="", metavar="REF", help="Commit that --branch begins at (default: HEAD)."),
    click.option("--full", is_flag=True, help="Send all of the history, all branches and tags, and the files of submodules (default: 10 generations)."),
    click.option("--no-git", is_flag=True, help="Send the files alone, all but .git; for directories that are no repository."),
    click.option("--include-untracked", is_flag=True, help="Send untracked files too; ignored ones are never sent."),
    click.option("--dry-run", is_flag=True, help="Print what would be sent, and do nothing."),
)
_NAMES: Final = {
    "branch": "--branch", "base": "--from", "full": "--full", "no_git": "--no-git", "include_untracked": "--include-untracked", "dry_run": "--dry-run",
}  # fmt: skip


def source_options(function: F) -> F:
    """What of a directory is sent, shared by ``vm run`` and ``vm workspace prepare``."""
    for option in reversed(_SOURCE_OPTIONS):
        function = option(function)
    return function


def source_words(options: dict[str, Any]) -> list[str]:
    """Those of the options that were given, as they are written."""
    return [word for name, word in _NAMES.items() if options[name]]


def source_of(path: str, options: dict[str, Any]) -> Source:
    """Look at ``path``, and tell the caller what he should know about it. Raises BadRequest when it cannot become a workspace."""
    from ..workspace.source import look_at

    source = look_at(path, _options(options))
    for notice in source.notices:
        note(notice)
    if source.untracked:
        many = source.untracked > 1
        note(f"{source.untracked} untracked file{'s are' if many else ' is'} not sent: --include-untracked sends {'them' if many else 'it'}")
    return source


def _options(options: dict[str, Any]) -> Options:
    from ..workspace.source import Options

    return Options(**{name: options[name] for name in ("branch", "base", "full", "no_git", "include_untracked")})


def check_tools(source: Source, *, nat: bool, bootstrap: bool) -> None:
    """Raises BadRequest when tools would have to be installed and there is no network to get them from."""
    if source.tool_files and bootstrap and not nat:
        raise BadRequest(
            f"{source.tool_files[0]} asks for tools, which cannot be installed without a network",
            hint="use --nat to let the machine get them, or --no-bootstrap to go without",
        )


def print_dry_run(source: Source, *, as_json: bool) -> None:
    """What would be sent, on stdout."""
    checkout = source.checkout
    mode = "files" if checkout is None else "full" if source.options.full else "shallow"
    names = [os.fsdecode(path) for path in sorted(source.files)]
    head, branch = (checkout.wanted, checkout.branch) if checkout else ("", "")
    if as_json:
        shown = [name.encode(errors="replace").decode() for name in names]
        print_json({"mode": mode, "root": str(source.root), "commit": head, "branch": branch, "untracked": source.untracked, "files": shown})
        return
    click.echo(f"mode: {mode}" + (f", {branch or 'detached HEAD'} at {head[:12]}" if checkout else ""))
    size = sum(state.size for state in source.files.values())
    click.echo(f"files: {len(names)}, {size} bytes, from {plain(str(source.root))}")
    for name in names:
        click.echo(plain(name).replace("\n", "\\n"))
