"""A patch into the user's working tree: only where it fits, and only where a patch belongs. His index and repository are not touched."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..model.errors import BangerError, CommandFailed
from .git import Git
from .repository import Repository
from .shadow import open_shadow

_GITLINK: Final = re.compile(rb"^(?:(?:old|new|deleted file|new file) mode|index [0-9a-f]+\.\.[0-9a-f]+) 160000\b", re.MULTILINE)
_GIT_NAMES: Final = re.compile(r"\.git[ .]*|git~[0-9]+", re.IGNORECASE)
"""What some file system takes for ``.git`` (CVE-2014-9390); a colon would begin an NTFS stream."""
_IGNORABLE: Final = re.compile("[\u200c-\u200f\u202a-\u202e\u206a-\u206f\ufeff]")
"""What HFS+ ignores in names."""
_LIMITS: Final = {"GIT_ALLOC_LIMIT": "1g"}


@dataclass(frozen=True, slots=True)
class Change:
    """What a patch does to one file; lines are None for binary content."""

    path: str
    added: int | None
    removed: int | None


class PatchRefused(BangerError):
    """The patch does not fit, or does what no patch may."""


def check_patch(repository: Repository, untrusted_patch: bytes) -> tuple[Change, ...]:
    """What the patch would do. Raises PatchRefused unless every part of it fits onto the working tree and stays inside."""
    if not untrusted_patch:
        return ()
    if _GITLINK.search(untrusted_patch):
        raise PatchRefused("the patch adds or moves a submodule", hint="look at it with `banger vm workspace diff`")
    with open_shadow(repository, work_tree=repository.root) as shadow:
        changes = _changes(shadow.git, untrusted_patch)
        for change in changes:
            _check_path(repository.root, change.path)
        _apply(shadow.git, untrusted_patch, "--check")
    return changes


def apply_patch(repository: Repository, untrusted_patch: bytes) -> None:
    """Change the files of the working tree; the patch must have been checked, and is checked again by git. Raises PatchRefused."""
    if untrusted_patch:
        with open_shadow(repository, work_tree=repository.root) as shadow:
            _apply(shadow.git, untrusted_patch)


def _apply(git: Git, untrusted_patch: bytes, *words: str) -> bytes:
    """``git apply`` reads a patch from stdin, follows no link, leaves the directory of no file, and writes ``.git`` never (git-apply(1), --unsafe-paths)."""
    try:
        return git.run("apply", "--whitespace=nowarn", *words, stdin=untrusted_patch, environment=_LIMITS).stdout
    except CommandFailed as error:
        reasons = [line.removeprefix("error: ") for line in error.message.splitlines() if line.startswith(("error: ", "fatal: "))]
        raise PatchRefused(
            "the patch does not fit onto the working tree: " + "; ".join(reasons[:5]),
            hint="files were changed here since the workspace was prepared: bring the work home with `banger vm workspace fetch` and merge it",
        ) from None


def _changes(git: Git, untrusted_patch: bytes) -> tuple[Change, ...]:
    changes = []
    for item in _apply(git, untrusted_patch, "--numstat", "-z").split(b"\0")[:-1]:
        added, removed, path = item.split(b"\t", 2)
        changes.append(Change(os.fsdecode(path), _count(added), _count(removed)))
    return tuple(changes)


def _count(word: bytes) -> int | None:
    return int(word) if word.isdigit() else None


def _check_path(root: Path, path: str) -> None:
    """Ours, beside git's own: no way out, no ``.git`` in any spelling, and no link on the way."""
    parts = path.split("/")
    if path.startswith("/") or ".." in parts or "" in parts or "." in parts:
        raise PatchRefused(f"the patch changes {path!r}, which is not inside the repository")
    for part in parts:
        if _GIT_NAMES.fullmatch(_IGNORABLE.sub("", part).partition(":")[0].replace("\\", "/").rpartition("/")[2]):
            raise PatchRefused(f"the patch changes {path!r}, which belongs to git")
    place = root
    for part in parts[:-1]:
        place /= part
        if place.is_symlink():
            raise PatchRefused(f"the patch changes {path!r}, which is behind the symbolic link {place.relative_to(root)}")
