"""A patch into the user's working tree: only where it fits, and only where a patch belongs. His index and repository are not touched."""

from __future__ import annotations

import os
import re
import stat
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..model.errors import CommandFailed
from .git import Git
from .patch import GITLINK_MODE, SYMLINK_MODE, FilePatch, PatchRefused, read_patch
from .repository import Repository
from .shadow import open_shadow
from .working_tree import list_below, parents_of

__all__ = ["Change", "PatchRefused", "apply_patch", "check_patch"]

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


def check_patch(repository: Repository, untrusted_patch: bytes) -> tuple[Change, ...]:
    """What the patch would do. Raises PatchRefused unless every part of it fits onto the working tree and stays inside."""
    if not untrusted_patch:
        return ()
    parts = tuple(read_patch(untrusted_patch))
    _check_parts(repository.root, parts)
    with open_shadow(repository, work_tree=repository.root) as shadow:
        changes = _changes(shadow.git, untrusted_patch)
        if {os.fsencode(change.path) for change in changes} != {part.path for part in parts}:
            raise PatchRefused("git reads the patch in another way than banger does", hint="nothing was changed here")
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


def _check_parts(root: Path, parts: Sequence[FilePatch]) -> None:
    """Ours, beside git's own checks: see the functions below."""
    gone = frozenset(part.path for part in parts if part.deletes)
    for part in parts:
        if GITLINK_MODE in (part.old_mode, part.new_mode):
            raise PatchRefused("the patch adds or moves a submodule", hint="look at it with `banger vm workspace diff`")
        _check_path(os.fsdecode(part.path))
        _check_way(root, part, gone)
        if not part.deletes:
            _check_room(root, part.path, gone)
    _check_new_links(parts)


def _check_path(path: str) -> None:
    """No way out, and no ``.git`` in any spelling."""
    parts = path.split("/")
    if path.startswith("/") or ".." in parts or "" in parts or "." in parts:
        raise PatchRefused(f"the patch changes {path!r}, which is not inside the repository")
    for part in parts:
        if _GIT_NAMES.fullmatch(_IGNORABLE.sub("", part).partition(":")[0].replace("\\", "/").rpartition("/")[2]):
            raise PatchRefused(f"the patch changes {path!r}, which belongs to git")


def _check_way(root: Path, part: FilePatch, gone: frozenset[bytes]) -> None:
    """No symbolic link is on the way, but one that the same patch deletes: there a directory takes its place."""
    for folder in sorted(parents_of(part.path)):
        info = _look(root, folder)
        if info is not None and stat.S_ISLNK(info.st_mode):
            if folder in gone and not part.deletes:
                return
            raise PatchRefused(f"the patch changes {os.fsdecode(part.path)!r}, which is behind the symbolic link {os.fsdecode(folder)!r}")


def _check_room(root: Path, path: bytes, gone: frozenset[bytes]) -> None:
    """Where a directory is, all that is in it is deleted by the same patch: git would notice in the middle of applying."""
    info = _look(root, path)
    if info is None or not stat.S_ISDIR(info.st_mode) or any(folder in gone for folder in parents_of(path)):
        return
    for inside in list_below(os.fsencode(root), path):
        if inside not in gone:
            raise PatchRefused(
                f"the patch does not fit onto the working tree: {os.fsdecode(inside)!r} is in the way of the file {os.fsdecode(path)!r}",
                hint="move it away, and apply again",
            )


def _look(root: Path, path: bytes) -> os.stat_result | None:
    try:
        return os.lstat(os.fsencode(root) + b"/" + path)
    except OSError:
        return None


def _check_new_links(parts: Sequence[FilePatch]) -> None:
    """Nothing is written behind a link that the patch makes, also where a file system takes different spellings for the same name."""
    links = {_folded(part.path): part.path for part in parts if part.new_mode == SYMLINK_MODE and not part.deletes}
    for part in parts:
        for folder in [] if part.deletes else parents_of(part.path):
            if link := links.get(_folded(folder)):
                raise PatchRefused(f"the patch changes {os.fsdecode(part.path)!r}, which is behind the symbolic link {os.fsdecode(link)!r} that it makes")


def _folded(path: bytes) -> str:
    return unicodedata.normalize("NFKC", _IGNORABLE.sub("", unicodedata.normalize("NFKD", os.fsdecode(path)).casefold()))
