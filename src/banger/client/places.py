"""What the two words of ``vm cp`` mean, and where the copy goes: the rules of ``docker cp`` (its reference page, section "Extended description")."""

from __future__ import annotations

import posixpath
import shlex
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from ..model.errors import BadRequest

Kind = Literal["missing", "other", "directory", "file", "symlink"]


@dataclass(frozen=True, slots=True)
class Place:
    """One side: a path of a machine, a path of this host (``vm`` is ""), or ``-``, a tar stream."""

    vm: str
    path: str

    @property
    def is_stream(self) -> bool:
        return not self.vm and self.path == "-"

    @property
    def is_contents(self) -> bool:
        """It names what is in a directory: ``.`` or a trailing ``/.``."""
        return posixpath.basename(self.path) == "."

    @property
    def is_directory(self) -> bool:
        """It is written as a directory: with ``/`` or ``/.`` at its end."""
        return self.path.endswith("/") or self.is_contents

    @property
    def clean(self) -> str:
        """Absolute, without ``.``, ``..`` and doubled slashes; in a machine, relative paths begin at ``/``."""
        base = "/" if self.vm else str(Path.cwd())
        return "/" + posixpath.normpath(posixpath.join(base, self.path)).lstrip("/")

    def __str__(self) -> str:
        return f"{self.vm}:{self.path}" if self.vm else self.path


def parse_place(word: str) -> Place:
    """``VM:PATH``, ``PATH`` or ``-``. A local name with a colon is written with ``/`` or ``./`` before it."""
    vm, colon, path = word.partition(":")
    if not colon or word.startswith(("/", ".")) or "/" in vm:
        if not word:
            raise BadRequest("an empty path", hint="write VM:PATH for a path of a machine, PATH for one of this host")
        return Place("", word)
    if not vm or not path:
        raise BadRequest(f"{word!r} lacks the {'path' if vm else 'machine'}", hint="write VM:PATH, for example box:/root")
    return Place(vm, path)


@dataclass(frozen=True, slots=True)
class Found:
    """What is at a path, links at its end followed. ``path`` is where that is; of a link to nothing, where it leads."""

    kind: Kind
    path: str
    size: int = 0


class Looker(Protocol):
    """Looks at one side's files."""

    def look(self, path: str, *, follow: bool) -> Found:
        """What is at an absolute path. A link is a ``symlink`` unless followed; nothing there is ``missing``."""


class HostFiles:
    """This host's files."""

    def look(self, path: str, *, follow: bool) -> Found:
        try:
            status = Path(path).stat(follow_symlinks=follow)
        except (FileNotFoundError, NotADirectoryError):
            return Found("missing", str(Path(path).resolve()) if follow else path)
        except OSError as error:
            raise BadRequest(f"cannot look at {path}: {error.strerror}", hint="check the directories above it and their modes") from error
        return Found(_kind(status.st_mode), str(Path(path).resolve()) if follow else path, status.st_size)


def _kind(mode: int) -> Kind:
    return "directory" if stat.S_ISDIR(mode) else "file" if stat.S_ISREG(mode) else "symlink" if stat.S_ISLNK(mode) else "other"


@dataclass(frozen=True, slots=True)
class Source:
    """What is copied. ``name`` is its own; ``contents``: only what is in the directory."""

    path: str
    name: str
    kind: Kind
    size: int
    follow: bool
    contents: bool


def find_source(looker: Looker, place: Place, *, follow: bool) -> Source:
    """Look at the source. Raises BadRequest when there is nothing, or no directory where one is named."""
    path = place.clean
    follow = follow or place.is_directory
    found = looker.look(path, follow=follow)
    if found.kind == "missing":
        raise BadRequest(f"there is no {place}", hint=_look(place))
    if place.is_directory and found.kind != "directory":
        raise BadRequest(f"{place} is not a directory", hint="leave out what follows its name")
    if found.kind == "other":
        raise BadRequest(f"{place} is neither a file, a directory nor a symbolic link", hint="devices, sockets and fifos are not copied")
    return Source(path, posixpath.basename(path), found.kind, found.size, follow, place.is_contents or path == "/")


def _look(place: Place) -> str:
    """How to see what there is instead."""
    if place.vm:
        return f"paths of a machine begin at its /: banger vm exec {place.vm} -- ls -a {shlex.quote(posixpath.dirname(place.clean))}"
    return f"it was looked for at {place.clean}; a path of a machine is written VM:PATH"


@dataclass(frozen=True, slots=True)
class Target:
    """Where a copy goes: beneath the existing ``directory``, as ``name``; "" = what comes is the directory's content."""

    directory: str
    name: str


def find_target(looker: Looker, place: Place, source: Source | None) -> Target:
    """Decide where ``source`` (None = a tar stream) goes. Raises BadRequest for what docker refuses as well."""
    found = looker.look(place.clean, follow=True)
    if found.kind == "directory":
        return Target(found.path, "" if source is None or source.contents else source.name)
    if source is None:
        raise BadRequest(f"{place} is not a directory", hint="a tar stream is unpacked into a directory that exists")
    if found.kind != "missing":
        if source.kind == "directory":
            raise BadRequest(f"cannot copy a directory to {place}, which is not one", hint="name a directory, or a path where there is nothing yet")
        if place.is_directory:
            raise BadRequest(f"{place} is not a directory", hint="leave out what follows its name to replace it")
    elif place.is_directory and source.kind != "directory":
        raise BadRequest(f"there is no directory {place}", hint="make it first")
    parent, name = posixpath.split(found.path.rstrip("/"))
    if looker.look(parent or "/", follow=True).kind != "directory":
        raise BadRequest(f"there is no directory {parent or '/'}", hint="make it first")
    return Target(parent or "/", name)
