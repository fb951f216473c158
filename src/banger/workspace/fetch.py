"""The guest's commits into the user's repository, below ``refs/banger/VM/``.

A pack from the guest first goes into a quarantine: git unpacks and checks every object there (``index-pack --strict``, which is what ``transfer.fsckObjects``
does), within limits of size and memory. Only a pack that is whole and sound is put into the repository, and only our refs are written. Nothing of the
guest's is executed: a pack has no hooks, no attributes are looked at, and nothing is checked out.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, Final

from ..model.errors import BangerError, CommandFailed, GuestError
from ..model.names import check_vm_name
from .export import check_script
from .git import Git
from .guest import Guest
from .guest_scripts import COMMITS
from .repository import Repository
from .shadow import open_shadow

MAX_PACK: Final = 2 * 1024**3
MAX_REFS: Final = 256
_BRANCHES: Final = "refs/heads/"
_NO_BRANCHES: Final = ("/worktree", "/HEAD")
_MAX_HEAD: Final = 256 * 1024
_LINE: Final = re.compile(r"([0-9a-f]{40}|[0-9a-f]{64}) (HEAD|worktree|refs/heads/[\x21-\x7e\x80-\U0010ffff]{1,200})")
_LIMITS: Final = {"GIT_ALLOC_LIMIT": "1g"}


@dataclass(frozen=True, slots=True)
class Fetched:
    """One ref of the user's repository that was written."""

    ref: str
    commit: str
    before: str
    """"" when it is new."""


def fetch_commits(repository: Repository, guest: Guest, path: str, vm_name: str, *, limit: int = MAX_PACK) -> tuple[Fetched, ...]:
    """Bring the guest's branches, and a commit of what it has not committed, into ``repository``.

    Raises GuestError when the guest cannot, sends more than ``limit`` bytes, or sends what git does not accept; the repository is then as it was.
    """
    check_vm_name(vm_name)
    with tempfile.TemporaryFile(prefix="banger-fetch-") as file:
        done = guest.run(("/bin/sh", "-c", COMMITS, "banger-fetch", path), into=file, limit=limit)
        check_script(done, path)
        file.seek(0)
        tips = _read_tips(repository, file)
        _receive(repository, file, frozenset(tips.values()), limit)
    before = _existing(repository)
    return _write_refs(repository, _own_refs(tips, vm_name, before), before)


def _read_tips(repository: Repository, file: IO[bytes]) -> dict[str, str]:
    """The guest's names and their commits; leaves ``file`` where the pack begins."""
    tips: dict[str, str] = {}
    size = 0
    while (untrusted_line := file.readline(_MAX_HEAD)) != b"\n":
        size += len(untrusted_line)
        match = _LINE.fullmatch(untrusted_line.decode(errors="replace").rstrip("\n"))
        if match is None or size > _MAX_HEAD or len(tips) >= MAX_REFS:
            raise GuestError("the guest sent a list of commits that makes no sense")
        name = match[2]
        if name in tips:
            raise GuestError(f"the guest sent {name[:80]!r} twice")
        if repository.git.run("check-ref-format", "--allow-onelevel", name, allowed=(0, 1)).status or ".." in name:
            raise GuestError(f"the guest sent a branch with a bad name: {name[:80]!r}", hint="rename or delete it there: `git branch` shows them")
        tips[name] = match[1]
    return tips


def _own_refs(tips: Mapping[str, str], vm_name: str, before: Mapping[str, str]) -> dict[str, str]:
    """Where the tips go. What is no branch gets a name beside the machine's branches when one of them has taken its own; no machine is called so."""
    prefix = f"refs/banger/{vm_name}"
    branches = {f"{prefix}/{name.removeprefix(_BRANCHES)}": commit for name, commit in tips.items() if name.startswith(_BRANCHES)}
    known = [*branches, *(name for name in before if name.startswith(f"{prefix}/") and name.count("/") > 3)]
    taken = {name.split("/")[3] for name in known}
    return branches | {f"{prefix}{'.' if name in taken else '/'}{name}": commit for name, commit in tips.items() if not name.startswith(_BRANCHES)}


def _receive(repository: Repository, file: IO[bytes], tips: frozenset[str], limit: int) -> None:
    """Check the pack that ``file`` has next, and put it into the repository when it is sound and has, with what is there, all that the tips lead to."""
    with open_shadow(repository) as shadow:
        begin = file.tell()
        _check_pack(shadow.git, file, begin, limit)
        _check_tips(shadow.git, repository, tips)
        _keep(repository, file, begin)


def _check_pack(git: Git, file: IO[bytes], begin: int, limit: int) -> None:
    _rewind(file, begin)
    try:
        git.run(
            "-c", "core.bigFileThreshold=16m", "index-pack", "--strict", "--stdin", f"--max-input-size={limit}", stdin=file, environment=_LIMITS
        )  # fmt: skip
    except CommandFailed as error:
        reason = " ".join(error.message.partition(":\n")[2].split())[-500:]
        raise GuestError(
            f"the guest sent a pack that git refuses: {reason}", hint="nothing was changed here; `banger vm workspace diff` shows what it has"
        ) from None


def _check_tips(git: Git, repository: Repository, tips: frozenset[str]) -> None:
    asked = "".join(f"{tip}\n" for tip in sorted(tips)).encode()
    answers = git.output("cat-file", "--batch-check=%(objecttype)", stdin=asked).split()
    if answers != [b"commit"] * len(tips):
        raise GuestError("the guest named commits that it did not send")
    # Everything that leads from the tips to what the user has, or to where his own history ends, must be there.
    try:
        edge = repository.common_dir / "shallow"
        words = ("--shallow-file", str(edge)) if edge.exists() else ()
        git.run(*words, "rev-list", "--objects", "--quiet", "--stdin", stdin=asked + f"^{repository.head}\n".encode())
    except CommandFailed:
        raise GuestError("the guest did not send all of its commits' content") from None


def _keep(repository: Repository, file: IO[bytes], begin: int) -> None:
    _rewind(file, begin)
    try:
        Git.of_user(repository.root).run("index-pack", "--strict", "--stdin", stdin=file, environment=_LIMITS)
    except CommandFailed as error:
        raise BangerError(f"git cannot store the commits: {error.message}", hint=f"is there space, and may you write to {repository.objects}?") from None


def _rewind(file: IO[bytes], position: int) -> None:
    """The descriptor itself, which is what a child reads from."""
    os.lseek(file.fileno(), position, os.SEEK_SET)


def _existing(repository: Repository) -> dict[str, str]:
    """Refs below ``refs/banger/`` and their commits."""
    listed = repository.git.output("for-each-ref", "--format=%(objectname) %(refname)", "refs/banger/").decode("utf-8", "surrogateescape")
    return {name: commit for commit, _, name in (line.partition(" ") for line in listed.splitlines())}


def _write_refs(repository: Repository, wanted: Mapping[str, str], before: Mapping[str, str]) -> tuple[Fetched, ...]:
    git = Git.of_user(repository.root)
    # What an earlier fetch called so is in the way of a branch that has the name now.
    stale = {name for name in before for ref in wanted if name not in wanted and name.endswith(_NO_BRANCHES) and ref.startswith(f"{name}/")}
    commands = "".join(f"update {ref}\0{commit}\0\0" for ref, commit in wanted.items())
    try:
        for words in ("".join(f"delete {ref}\0\0" for ref in stale), commands):
            git.run(
                "update-ref", "-m", "banger vm workspace fetch", "--no-deref", "-z", "--stdin", stdin=words.encode("utf-8", "surrogateescape")
            )  # fmt: skip
    except CommandFailed as error:
        raise BangerError(
            f"git cannot write refs/banger/: {error.message.rpartition('fatal: ')[2]}", hint="delete what is in the way with `git update-ref -d`"
        ) from None
    return tuple(Fetched(ref, commit, before.get(ref, "")) for ref, commit in wanted.items())
