"""The user's repository, looked at from outside: where it is, what is checked out, who he is. Nothing here writes."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from ..model.errors import BadRequest, CommandFailed
from .git import Git

_CARRIED: Final = ("core.autocrlf", "core.eol")
"""Configuration that says what the bytes in the working tree mean."""
_OPERATIONS: Final = {
    "MERGE_HEAD": "merge",
    "CHERRY_PICK_HEAD": "cherry-pick",
    "REVERT_HEAD": "revert",
    "rebase-merge": "rebase",
    "rebase-apply": "rebase",
    "BISECT_LOG": "bisect",
}
_HASH_NAMES: Final = {"sha1": 40, "sha256": 64}


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """A repository with a working tree and at least one commit."""

    root: Path
    """Top of the working tree."""
    git_dir: Path
    """What belongs to this working tree: HEAD and index. Not below ``root`` in a linked worktree."""
    common_dir: Path
    """What all its working trees share: objects and refs."""
    object_format: str
    """``sha1`` or ``sha256``."""
    head: str
    """The commit that is checked out."""
    branch: str
    """"" when HEAD is detached."""
    origin: str
    """URL without credentials, "" without one."""
    identity: tuple[str, str]
    """Name and mail address for commits; either may be ""."""
    has_modes: bool
    """Executable bits of its files mean something (``core.filemode``)."""
    conversions: dict[str, str]
    """Settings that say what the bytes in the working tree mean, by their full name."""
    operation: str
    """``merge``, ``rebase`` ... when one is in progress."""

    @property
    def objects(self) -> Path:
        return self.common_dir / "objects"

    @property
    def name(self) -> str:
        return self.root.name or "repo"

    @property
    def git(self) -> Git:
        """git as the user has it."""
        return Git.of_user(self.root)

    def has(self, oid: str) -> bool:
        """It (still) has this object."""
        return self.git.run("cat-file", "-e", oid, allowed=(0, 1, 128)).status == 0


def find_directory(path: str) -> Path:
    """The directory that ``path`` names. Raises BadRequest when there is none."""
    found = Path(path).absolute()
    if not found.is_dir():
        what = "is not a directory" if found.exists() else "no such directory"
        raise BadRequest(f"{path}: {what}", hint="name the directory of a git repository, or put a command after `--`: banger vm run --rm -- uname -a")
    return found.resolve()


def open_repository(path: str) -> Repository:
    """The repository that ``path`` lies in. Raises BadRequest for a bare one, one without commits, and for a directory that is in none."""
    place = find_directory(path)
    git = Git.of_user(place)
    root, git_dir, common_dir, object_format, head = _places(git, path)
    branch = _branch(git, git_dir)
    if not head:
        on = f" (HEAD is on {branch}, which is not born yet)" if branch else ""
        raise BadRequest(f"{path}: the repository has no commits{on}", hint="commit something, or send the files alone with --no-git")
    config = _configuration(git)
    return Repository(
        root=root,
        git_dir=git_dir,
        common_dir=common_dir,
        object_format=object_format,
        head=head,
        branch=branch,
        origin=without_credentials(config.get("remote.origin.url", "")),
        identity=(config.get("user.name", ""), config.get("user.email", "")),
        has_modes=config.get("core.filemode", "true").lower() not in ("false", "no", "off", "0"),
        conversions={key: config[key] for key in _CARRIED if key in config},
        operation=next((word for name, word in _OPERATIONS.items() if (git_dir / name).exists()), ""),
    )


def commit_named(repository: Repository, revision: str) -> str:
    """Full name of the commit that ``revision`` means. Raises BadRequest when there is none."""
    found = (
        ""
        if revision.startswith("-")
        else repository.git.run("rev-parse", "-q", "--verify", f"{revision}^{{commit}}", allowed=(0, 1, 128)).stdout.decode().strip()
    )
    if len(found) != _HASH_NAMES[repository.object_format]:
        raise BadRequest(f"{repository.root} has no commit {revision!r}", hint="name a branch, a tag or a commit; `git log` shows them")
    return found


def check_branch_name(repository: Repository, name: str) -> str:
    """``name`` itself when a branch may have it. Raises BadRequest."""
    if name.startswith("-") or repository.git.run("check-ref-format", "--branch", name, allowed=(0, 1, 128)).stdout.decode(errors="replace").strip() != name:
        raise BadRequest(f"{name!r} is not a name for a branch", hint="see `git help check-ref-format`")
    return name


def without_credentials(url: str) -> str:
    """``url`` without what only its owner may know: user name (ssh needs it), password, and what follows a ``?``."""
    if "://" not in url:
        return url
    try:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        user = parts.username if parts.scheme in ("ssh", "git+ssh") and parts.username else ""
    except ValueError:
        return ""
    return urlunsplit(parts._replace(netloc=f"{user}@{host}" if user else host, query="", fragment=""))


_PLACES: Final = ("--absolute-git-dir", "--git-common-dir", "--show-object-format", "--show-toplevel")
_HEAD_COMMIT: Final = "HEAD^{commit}"


def _places(git: Git, path: str) -> tuple[Path, Path, Path, str, str]:
    """Top, git directory, common directory, object format and HEAD's commit, "" when it has none. One process where all is well."""
    done = git.run("rev-parse", "--path-format=absolute", "--is-bare-repository", "--is-inside-work-tree", *_PLACES, _HEAD_COMMIT, allowed=(0, 1, 128))
    answers = os.fsdecode(done.stdout.removesuffix(b"\n")).split("\n")
    if done.status != 0 or len(answers) != len(_PLACES) + 3:  # something is amiss, or a name contains a newline
        _check_kind(git, path)
        answers[2:] = [git.line("rev-parse", "--path-format=absolute", word) for word in _PLACES] + [git.line("rev-parse", "-q", "--verify", _HEAD_COMMIT)]
    git_dir, common_dir, object_format, top, head = answers[2:]
    return Path(top), Path(git_dir), Path(common_dir), object_format, head


def _check_kind(git: Git, path: str) -> None:
    try:
        bare, inside = git.output("rev-parse", "--is-bare-repository", "--is-inside-work-tree").split()
    except CommandFailed as error:
        if "not a git repository" in error.message:
            raise BadRequest(f"{path}: not in a git repository", hint="send the files alone with --no-git, or `git init` and commit") from None
        raise BadRequest(f"{path}: git cannot read the repository: {error.message.rpartition('fatal: ')[2]}") from None
    if bare == b"true":
        raise BadRequest(f"{path}: a bare repository has no files to work on", hint="clone it, and name the clone")
    if inside != b"true":
        raise BadRequest(f"{path}: inside a .git directory", hint="name the working tree")


def _branch(git: Git, git_dir: Path) -> str:
    """The branch that is checked out, "" when HEAD is detached: from the file, or from git when the refs are not kept in files."""
    with contextlib.suppress(OSError):
        content = (git_dir / "HEAD").read_bytes()
        if content.startswith(b"ref: refs/heads/") and content != b"ref: refs/heads/.invalid\n":
            return os.fsdecode(content.removeprefix(b"ref: refs/heads/").rstrip(b"\n"))
    return git.line("symbolic-ref", "-q", "--short", "HEAD")


def _configuration(git: Git) -> dict[str, str]:
    """The user's settings for this repository; keys are in lower case but for their middle part."""
    found = {}
    for item in git.output("config", "-z", "--list").split(b"\0"):
        key, has_value, value = item.partition(b"\n")
        if key:
            found[os.fsdecode(key)] = os.fsdecode(value) if has_value else "true"
    return found
