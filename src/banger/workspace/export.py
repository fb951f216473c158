"""Out of the guest: a patch of what was changed there."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from ..model.errors import BadRequest, GuestError
from .guest import Guest, Output
from .guest_scripts import CHANGES, CHANGES_SINCE, NEVER_PREPARED, NO_COMMIT, NO_GIT, NO_REPOSITORY

_HEX: Final = re.compile(rb"[0-9a-f]{40}|[0-9a-f]{64}")
_REVISION: Final = re.compile(r"[A-Za-z0-9_@^~./{}-]{1,250}")
_GIT_DIED: Final = 128
_USE_COPY: Final = "copy the files instead: banger vm cp VM:{path} ."


@dataclass(frozen=True, slots=True)
class Patch:
    """What was changed. ``untrusted_content`` was written by the guest."""

    base_commit: str
    untrusted_content: bytes

    @property
    def changed_files(self) -> int:
        """How many files it says it changes."""
        return len(re.findall(rb"^diff --git ", self.untrusted_content, re.MULTILINE))


def export_patch(guest: Guest, path: str, *, base_commit: str = "", may_compare: bool = True) -> Patch:
    """The patch from what was prepared, or from ``base_commit``, to what the workspace at ``path`` is now: commits, staged, unstaged and untracked.

    From what was prepared it has the bytes of the files; from a commit what git would commit. ``may_compare``: the caller has
    a way to name one. Raises GuestError, BadRequest.
    """
    if base_commit and (base_commit.startswith("-") or not _REVISION.fullmatch(base_commit)):
        raise BadRequest(f"{base_commit!r} does not name a commit", hint="give --base-commit a hash, or HEAD")
    words = (CHANGES_SINCE, "banger-export", path, base_commit) if base_commit else (CHANGES, "banger-export", path)
    done = guest.run(("/bin/sh", "-c", *words))
    check_script(done, path, base_commit, may_compare=may_compare)
    untrusted_base, _, untrusted_content = done.stdout.partition(b"\n")
    if not _HEX.fullmatch(untrusted_base):
        raise GuestError("the guest sent no patch")
    return Patch(untrusted_base.decode(), untrusted_content)


def check_script(done: Output, path: str, commit: str = "", *, may_compare: bool = False) -> None:
    """Raises the error that a script of ours in the guest ended with."""
    if done.status == 0:
        return
    copy = _USE_COPY.format(path=path)
    if done.status in (NO_GIT, 126, 127):
        raise GuestError("there is no git in this machine, so it cannot tell what was changed", hint=f"install git there, or {copy}")
    if done.status == NO_REPOSITORY:
        raise GuestError(f"{path} in the guest is not a git repository", hint=f"prepare it with git, or {copy}")
    if done.status == NEVER_PREPARED:
        hint = "use --base-commit to compare with a commit of its own" if may_compare else f"prepare it first, or {copy}"
        raise GuestError(f"{path} in the guest was not made by `vm workspace prepare`", hint=hint)
    if done.status == NO_COMMIT:
        raise GuestError(f"{path} in the guest has no commit {commit or 'HEAD'}", hint="a shallow history may end before it; prepare with --full")
    complaint = done.stderr.decode(errors="replace").strip()[-1000:]
    if done.status == _GIT_DIED:
        reason = complaint.rpartition("fatal: ")[2]
        raise GuestError(f"git in the guest cannot work with the repository at {path}: {reason}", hint=f"look at it there with `git fsck`, or {copy}")
    raise GuestError(f"git in the guest failed with status {done.status}: {complaint}")
