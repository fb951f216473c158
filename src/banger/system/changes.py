"""What an installation consists of: each piece knows whether it is there, how to come, and how to go back to what was before."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ..host.files import remove_tree, write_atomically
from ..model.errors import AlreadyExists, BangerError
from .program import Program, install_program

Undo = Callable[[], None]


def nothing() -> None:
    """The undo of what needs none."""


class Change(Protocol):
    """One piece."""

    @property
    def path(self) -> Path: ...

    def describe(self) -> str:
        """What ``make`` does, in words and with the path."""

    def is_made(self) -> bool:
        """Whether it is so already."""

    def make(self) -> Undo:
        """Make it so; returns what takes it back. Leaves nothing behind when it raises."""


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory, whatever its mode when it is there already: others may have made it."""

    path: Path
    mode: int = 0o755

    def describe(self) -> str:
        return f"make {self.path} ({self.mode:04o})"

    def is_made(self) -> bool:
        return self.path.is_dir()

    def make(self) -> Undo:
        if self.is_made():
            return nothing
        try:
            self.path.mkdir()
        except (FileExistsError, NotADirectoryError) as error:
            raise AlreadyExists(f"{error.filename} is not a directory", hint=f"move it away: sudo mv {error.filename} {error.filename}.old") from error
        self.path.chmod(self.mode)  # whatever the umask says

        def undo() -> None:
            with contextlib.suppress(OSError):  # somebody else may have put something into it meanwhile
                self.path.rmdir()

        return undo


@dataclass(frozen=True, slots=True)
class File:
    """A file of this content and mode, which replaces an older one of ours. ``ours``: the inventory knows it."""

    path: Path
    content: bytes
    ours: bool
    mode: int = 0o644

    def describe(self) -> str:
        return f"write {self.path} ({self.mode:04o})"

    def is_made(self) -> bool:
        try:
            info = self.path.lstat()
            return stat.S_ISREG(info.st_mode) and stat.S_IMODE(info.st_mode) == self.mode and self.path.read_bytes() == self.content
        except OSError:
            return False

    def make(self) -> Undo:
        before = None
        if self.path.is_symlink() or self.path.exists():
            if not self.ours:
                raise AlreadyExists(
                    f"{self.path} is there and was not put there by `banger system install`",
                    hint=f"remove what it belongs to, or move it away: sudo mv {self.path} {self.path}.old",
                )
            before = self.path.read_bytes(), stat.S_IMODE(self.path.stat().st_mode)
        write_atomically(self.path, self.content, mode=self.mode)

        def undo() -> None:
            if before is None:
                self.path.unlink(missing_ok=True)
            else:
                write_atomically(self.path, before[0], mode=before[1])

        return undo


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link, switched in one step."""

    path: Path
    target: str

    def describe(self) -> str:
        return f"link {self.path} -> {self.target}"

    def is_made(self) -> bool:
        return self.present() == self.target

    def present(self) -> str:
        """Where it leads now; "" when there is none."""
        try:
            return str(self.path.readlink())
        except OSError:
            return ""

    def make(self) -> Undo:
        before = self.present()
        self._point_to(self.target)
        return lambda: self._point_to(before)

    def _point_to(self, target: str) -> None:
        staged = self.path.with_name(f".{self.path.name}.staging")
        staged.unlink(missing_ok=True)
        if not target:
            self.path.unlink(missing_ok=True)
            return
        staged.symlink_to(target)
        os.rename(staged, self.path)


@dataclass(frozen=True, slots=True)
class ProgramFiles:
    """A version of the program in a directory of its own."""

    path: Path
    program: Program

    def describe(self) -> str:
        return f"copy banger {self.program.version} and what it needs ({len(self.program.files)} files) to {self.path}"

    def is_made(self) -> bool:
        return self.path.exists()  # its name was chosen by its content

    def make(self) -> Undo:
        install_program(self.program, self.path)
        return lambda: remove_tree(self.path)


@dataclass(frozen=True, slots=True)
class Gone:
    """A file of an older version that the new one does not have."""

    path: Path

    def describe(self) -> str:
        return f"remove {self.path}"

    def is_made(self) -> bool:
        return not self.path.exists() and not self.path.is_symlink()

    def make(self) -> Undo:
        content, mode = self.path.read_bytes(), stat.S_IMODE(self.path.stat().st_mode)
        self.path.unlink()
        return lambda: write_atomically(self.path, content, mode=mode)


def check_writable(path: Path) -> None:
    """Raises BangerError when nothing can be written where ``path`` shall be: a read-only file system stops root too."""
    place = next(one for one in path.parents if one.exists())
    if not os.access(place, os.W_OK):
        read_only = os.statvfs(place).f_flag & os.ST_RDONLY
        why = "is on a read-only file system" if read_only else "cannot be written"
        hint = "make it writable for the installation (mount -o remount,rw), or bind a writable directory over it" if read_only else "run this as root"
        raise BangerError(f"{place} {why}, so {path} cannot be made", hint=hint)


def missing_parents(path: Path, made: Mapping[Path, object]) -> list[Path]:
    """Directories above ``path`` that are not there and not in ``made``, the outermost first."""
    missing = []
    for one in path.parents:
        if one.exists():
            break
        if one not in made:
            missing.append(one)
    return missing[::-1]
