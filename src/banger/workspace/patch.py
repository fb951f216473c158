"""A patch taken apart far enough to know what it would touch, in the strict form that our own exports have.

``git apply`` accepts much more: copies and renames (whose source it reads from anywhere), patches of other programs, text in between. None of that is ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from ..model.errors import BangerError

SYMLINK_MODE: Final = 0o120000
GITLINK_MODE: Final = 0o160000

_MODE: Final = re.compile(rb"(old|new|deleted file|new file) mode ([0-7]{6})")
_INDEX: Final = re.compile(rb"index [0-9a-f]{4,64}\.\.[0-9a-f]{4,64}(?: ([0-7]{6}))?")
_HUNK: Final = re.compile(rb"@@ -[0-9]{1,10}(?:,([0-9]{1,10}))? \+[0-9]{1,10}(?:,([0-9]{1,10}))? @@.*", re.DOTALL)
_BINARY: Final = re.compile(rb"(?:literal|delta) [0-9]{1,15}")
_ESCAPE: Final = re.compile(rb"\\([0-3][0-7]{2}|.)", re.DOTALL)
_ESCAPED: Final = {b"a": b"\a", b"b": b"\b", b"t": b"\t", b"n": b"\n", b"v": b"\v", b"f": b"\f", b"r": b"\r", b'"': b'"', b"\\": b"\\"}
_QUOTED: Final = re.compile(rb'"((?:[^"\\]|\\.)*)"', re.DOTALL)


class PatchRefused(BangerError):
    """The patch does not fit, or does what no patch may."""


@dataclass(frozen=True, slots=True)
class FilePatch:
    """What a patch does to one path. Modes are 0 where there is no file, or none is named."""

    path: bytes
    old_mode: int
    new_mode: int
    deletes: bool


def read_patch(untrusted_patch: bytes) -> Iterator[FilePatch]:
    """The parts of a patch in order. Raises PatchRefused for what ``git diff-tree -p --binary --full-index --no-renames`` never writes."""
    lines = _Lines(untrusted_patch)
    while (line := lines.take()) is not None:
        yield _file_patch(line, lines)


class _Lines:
    """The lines of a patch, one after the other."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._at = 0

    def take(self) -> bytes | None:
        """The next line without its end; None after the last."""
        line = self.peek()
        self._at += 0 if line is None else len(line) + 1
        return line

    def skip_block(self) -> None:
        """Go behind the next empty line."""
        end = self._content.find(b"\n\n", self._at)
        self._at = end + 2 if end >= 0 else len(self._content)

    def peek(self) -> bytes | None:
        if self._at >= len(self._content):
            return None
        end = self._content.find(b"\n", self._at)
        return self._content[self._at : end if end >= 0 else len(self._content)]


def _file_patch(first: bytes, lines: _Lines) -> FilePatch:
    path = _path_of(first)
    modes: dict[bytes, int] = {}
    while (line := lines.peek()) is not None and not line.startswith(b"diff --git "):
        lines.take()
        if mode := _MODE.fullmatch(line):
            modes[mode[1]] = int(mode[2], 8)
        elif index := _INDEX.fullmatch(line):
            modes |= {b"old": int(index[1], 8), b"new": int(index[1], 8)} if index[1] else {}
        elif line.startswith((b"--- ", b"+++ ")):
            _check_name(line, path)
        elif hunk := _HUNK.fullmatch(line):
            _skip_hunk(int(hunk[1] or 1), int(hunk[2] or 1), lines)
        elif line == b"GIT binary patch":
            _skip_binary(lines)
        else:
            raise _strange(line)
    old = modes.get(b"deleted file", modes.get(b"old", 0))
    return FilePatch(path, old, modes.get(b"new file", modes.get(b"new", 0)), b"deleted file" in modes)


def _path_of(line: bytes) -> bytes:
    """The one path that ``diff --git a/PATH b/PATH`` names."""
    rest = line.removeprefix(b"diff --git ")
    if rest == line:
        raise _strange(line)
    if quoted := _QUOTED.match(rest):
        old, new = rest[: quoted.end()], rest[quoted.end() + 1 :]
    else:
        old, new = rest[: len(rest) // 2], rest[len(rest) // 2 + 1 :]
    first, second = _unquoted(old), _unquoted(new)
    if not (first.startswith(b"a/") and second == b"b/" + first[2:] and rest == old + b" " + new):
        raise _strange(line)
    return first[2:]


def _check_name(line: bytes, path: bytes) -> None:
    """``--- NAME`` and ``+++ NAME`` name the same path, or nothing."""
    side = b"a/" if line.startswith(b"---") else b"b/"
    name = line[4:]
    if name != b"/dev/null" and _unquoted(name.removesuffix(b"\t")) != side + path:
        raise _strange(line)


def _unquoted(name: bytes) -> bytes:
    """A name as git wrote it: between quotes, with escapes as in C, when it is not plain (git-config(1), core.quotePath)."""
    quoted = _QUOTED.fullmatch(name)
    return _ESCAPE.sub(lambda match: _ESCAPED.get(match[1]) or _octal(match[1], name), quoted[1]) if quoted else name


def _octal(digits: bytes, name: bytes) -> bytes:
    if len(digits) != 3:
        raise _strange(name)
    return bytes([int(digits, 8)])


def _skip_hunk(old: int, new: int, lines: _Lines) -> None:
    while old > 0 or new > 0:
        line = lines.take()
        kind = b"" if line is None else line[:1]
        if kind not in (b" ", b"-", b"+", b"\\"):
            raise _strange(line or b"")
        old -= kind in (b" ", b"-")
        new -= kind in (b" ", b"+")
    if old or new:
        raise PatchRefused("the patch has a hunk with more lines than it says")
    if (lines.peek() or b"").startswith(b"\\"):
        lines.take()


def _skip_binary(lines: _Lines) -> None:
    """One block for the way there and one for the way back, each closed by an empty line."""
    while (line := lines.peek()) is not None and _BINARY.fullmatch(line):
        lines.skip_block()


def _strange(line: bytes) -> PatchRefused:
    shown = line[:100].decode(errors="replace")
    return PatchRefused(f"the patch has a line that no patch of `banger vm workspace export` has: {shown!r}", hint="nothing was changed here")
