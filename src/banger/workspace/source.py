"""What on the host is to become a workspace: looked at, and refused where it cannot be one, before anything is made."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ..model.errors import BadRequest
from .index import GITLINK, UserIndex, read_index
from .repository import Repository, check_branch_name, commit_named, find_directory, open_repository
from .working_tree import Files, find_all_files, find_files, list_submodule_files, list_untracked

_TOOL_FILES: Final = (b".mise.toml", b".tool-versions")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a directory is to become a workspace."""

    branch: str = ""
    """Make this branch in the guest."""
    base: str = ""
    """Where ``branch`` begins; "" = HEAD."""
    full: bool = False
    """All of the history, and the files of submodules."""
    no_git: bool = False
    """The files alone."""
    include_untracked: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkout:
    """The git half of a source."""

    repository: Repository
    index: UserIndex
    wanted: str
    """The commit that the guest has checked out."""
    branch: str
    """The branch that it is on; "" = detached."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A directory of the host and the files in it that are sent."""

    root: Path
    options: Options
    files: Files
    checkout: Checkout | None
    """None with ``no_git``."""
    empty_directories: tuple[bytes, ...] = ()
    """Sent with ``no_git``; git knows none."""
    untracked: int = 0
    """Untracked files that stay behind."""
    notices: tuple[str, ...] = field(default=())

    @property
    def tool_files(self) -> tuple[str, ...]:
        """Files in its top directory that say which tools mise shall install."""
        return tuple(name.decode() for name in _TOOL_FILES if name in self.files)


def look_at(path: str, options: Options) -> Source:
    """The source that ``path`` names. Raises BadRequest when it cannot become a workspace as the options say."""
    _check(options)
    if options.no_git:
        root = find_directory(path)
        files, empty = find_all_files(os.fsencode(root))
        return Source(root=root, options=options, files=files, checkout=None, empty_directories=empty)
    repository = open_repository(path)
    with ThreadPoolExecutor(1) as beside:  # git walks through the directories while we ask for the index and look at the files in it
        untracked = beside.submit(list_untracked, repository)
        index = read_index(repository)
        _check_submodules(repository, index, full=options.full)
        tracked = [path for path, entry in index.entries.items() if entry.mode != GITLINK] + list(index.unmerged - index.entries.keys())
        paths = dict.fromkeys([*tracked, *list_submodule_files(repository, index)])
        top = os.fsencode(repository.root)
        files = find_files(top, paths, index.entries, believe_modes=repository.has_modes)
        others = untracked.result()
    sent = [path for path in others if options.include_untracked and not path.endswith(b"/")]
    files |= find_files(top, sent, index.entries, believe_modes=repository.has_modes)
    return Source(
        root=repository.root,
        options=options,
        files=files,
        checkout=_checkout(repository, index, options),
        untracked=len(others) - len(sent),
        notices=_notices(repository),
    )


def _check(options: Options) -> None:
    if options.base and not options.branch:
        raise BadRequest("--from needs --branch", hint="name the branch that shall begin there: --branch NAME --from REF")
    if options.no_git and (options.branch or options.full):
        raise BadRequest("--no-git excludes --branch and --full", hint="without git there is no history to send")


def _check_submodules(repository: Repository, index: UserIndex, *, full: bool) -> None:
    links = [os.fsdecode(path) for path, entry in index.entries.items() if entry.mode == GITLINK]
    if links and not full:
        raise BadRequest(
            f"{repository.root} has submodules ({', '.join(links[:3])}{', ...' if len(links) > 3 else ''}), which are not sent",
            hint="use --full, which sends the files of initialised submodules without their history",
        )


def _checkout(repository: Repository, index: UserIndex, options: Options) -> Checkout:
    if not options.branch:
        return Checkout(repository=repository, index=index, wanted=repository.head, branch=repository.branch)
    branch = check_branch_name(repository, options.branch)
    return Checkout(repository=repository, index=index, wanted=commit_named(repository, options.base or "HEAD"), branch=branch)


def _notices(repository: Repository) -> tuple[str, ...]:
    if not repository.operation:
        return ()
    return (f"a {repository.operation} is in progress: its files are sent as they are, its state is not",)
