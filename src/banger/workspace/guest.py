"""What a workspace needs of the machine that it lives in."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import IO, Final, Protocol

from ..model.errors import BadRequest, GuestError
from .records import Record

OUTPUT_LIMIT: Final = 256 * 1024 * 1024
_NOT_STARTED: Final = (126, 127)
_FIELDS: Final = 9
_HASH: Final = re.compile(rb"[0-9a-f]{40}|[0-9a-f]{64}")
_ID: Final = re.compile(rb"[0-9a-f]{32}")

_PROBE: Final = r"""
path=${1:-repo}
case $path in /*) ;; *) path=${HOME%/}/$path ;; esac
# Programs are slow to start in an emulated machine: what the shell can read itself, it does.
marker= head= base= git=no used=no uid= gid=
if [ -f "$path/.git/banger/prepared" ] && [ ! -L "$path/.git" ]; then
    used=yes
    read -r marker <"$path/.git/banger/prepared"
elif [ -d "$path" ]; then
    [ -n "$(ls -A -- "$path" 2>/dev/null)" ] && used=yes
elif [ -e "$path" ]; then
    used=file
fi
if command -v git >/dev/null 2>&1; then
    git=yes
    if [ -n "$marker" ]; then
        [ -f "$path/.git/refs/banger/base" ] && read -r base <"$path/.git/refs/banger/base"
        read -r head <"$path/.git/HEAD"
        case $head in
        "ref: "*)
            ref=${head#ref: } head=
            [ -f "$path/.git/$ref" ] && read -r head <"$path/.git/$ref"
            ;;
        esac
        [ -n "$head" ] || head=$(git -C "$path" rev-parse -q --verify HEAD 2>/dev/null)
        [ -n "$base" ] || base=$(git -C "$path" rev-parse -q --verify refs/banger/base 2>/dev/null)
    fi
fi
while read -r key _ id _; do
    case $key in Uid:) uid=$id ;; Gid:) gid=$id ;; esac
done </proc/self/status
printf '%s\0' "$HOME" "$path" "$uid" "$gid" "$used" "$git" "$marker" "$head" "$base"
"""


@dataclass(frozen=True, slots=True)
class Output:
    """How a command in the guest ended and what it said."""

    status: int
    stdout: bytes
    stderr: bytes


class Guest(Protocol):
    """A running machine, as one of its users."""

    def run(self, argv: Sequence[str], *, into: IO[bytes] | None = None, limit: int = OUTPUT_LIMIT) -> Output:
        """Run a command without stdin to its end; its stdout goes to ``into`` if given. Raises GuestError when it is longer than ``limit`` bytes."""

    def unpack(self, records: Iterable[Record], destination: str, *, uid: int, gid: int) -> None:
        """Make these files below ``destination`` (made if missing), all owned so. Raises GuestError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a workspace is, or will be, in the guest."""

    home: str
    path: str
    uid: int = 0
    gid: int = 0
    used: bool = False
    """There is something already."""
    shell: bool = True
    git: bool = False
    ours: bool = False
    """A prepare has begun there before."""
    marker: str = ""
    """Id of the last prepare that was completed there; "" without one."""
    head: str = ""
    base: str = ""
    """Commit that was prepared last, as the guest says; "" when it has no git."""

    @property
    def moved(self) -> bool:
        """The guest has checked out something else than what was prepared."""
        return self.head != self.base


def find_place(guest: Guest, guest_path: str) -> Place:
    """Look where ``guest_path`` is (relative to the user's home; "" = ``repo``). Raises BadRequest for one that cannot be used, GuestError."""
    found = guest.run(("/bin/sh", "-c", _PROBE, "banger-probe", guest_path), limit=1024 * 1024)
    if found.status in _NOT_STARTED:
        return _place_without_shell(guest_path)
    untrusted = found.stdout.split(b"\0")
    if len(untrusted) != _FIELDS + 1:
        raise GuestError(f"the guest gave no answer about {guest_path or 'the workspace'}: {found.stderr.decode(errors='replace').strip()[-500:]}")
    home, path, uid, gid, used, git, marker, head, base = untrusted[:_FIELDS]
    if used == b"file":
        raise BadRequest(f"{_text(path)} in the guest is not a directory", hint="choose another --guest-path")
    return Place(
        home=_text(home),
        path=_absolute(_text(path)),
        uid=_number(uid),
        gid=_number(gid),
        used=used == b"yes",
        git=git == b"yes",
        ours=bool(marker),
        marker=_matching(_ID, marker),
        head=_matching(_HASH, head),
        base=_matching(_HASH, base),
    )


def _place_without_shell(guest_path: str) -> Place:
    """Images without a shell have no users worth the name."""
    return Place(home="/root", path=_absolute(guest_path if guest_path.startswith("/") else f"/root/{guest_path or 'repo'}"), shell=False)


def _absolute(path: str) -> str:
    path = path.rstrip("/")
    if not path.startswith("/") or ".." in path.split("/"):
        raise BadRequest(f"{path or '/'!r} cannot be a workspace in the guest", hint="give --guest-path a directory, such as /root/repo")
    return path


def _text(untrusted: bytes) -> str:
    try:
        return untrusted.decode()
    except UnicodeDecodeError:
        raise BadRequest(f"{untrusted!r} in the guest is not valid UTF-8", hint="choose another --guest-path") from None


def _number(untrusted: bytes) -> int:
    return int(untrusted) if untrusted.isdigit() and len(untrusted) <= 10 else 0


def _matching(shape: re.Pattern[bytes], untrusted: bytes) -> str:
    return untrusted.decode() if shape.fullmatch(untrusted) else ""
