"""What a check finds, and the remedies that ``--fix`` can carry out."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..model.checks import Check, Status
from ..model.errors import BangerError


@dataclass(frozen=True, slots=True)
class Command:
    """A program to run."""

    argv: tuple[str, ...]

    def text(self, prefix: str) -> str:
        return prefix + shlex.join(self.argv)


@dataclass(frozen=True, slots=True)
class NewFile:
    """A small file, new or replaced."""

    path: Path
    content: str
    """Without its last newline."""

    def text(self, prefix: str) -> str:
        return f"echo {shlex.quote(self.content)} | {prefix}tee {shlex.quote(str(self.path))}"


@dataclass(frozen=True, slots=True)
class OutputTo:
    """A program whose output becomes a file."""

    argv: tuple[str, ...]
    path: Path

    def text(self, prefix: str) -> str:
        return f"{prefix}{shlex.join(self.argv)} > {shlex.quote(str(self.path))}"


Step = Command | NewFile | OutputTo


@dataclass(frozen=True, slots=True)
class Fix:
    """A safe remedy that can be taken back. Only made in this process: what a daemon says is never run."""

    steps: tuple[Step, ...]
    who: Literal["root", "owner"] = "root"
    """``owner``: of the instance."""
    foreign: bool = False
    """Changes what belongs to others, so ``--yes`` does not include it."""

    def text(self) -> str:
        """The commands to paste, ``sudo`` before those that need it."""
        prefix = "sudo " if self.who == "root" else ""
        return " && ".join(step.text(prefix) for step in self.steps)


def commands(*lines: str, who: Literal["root", "owner"] = "root", foreign: bool = False) -> Fix:
    """A fix of commands whose words need no quotes."""
    return Fix(tuple(Command(tuple(line.split())) for line in lines), who, foreign)


@dataclass(frozen=True, slots=True)
class Result:
    """What one check found."""

    status: Status
    detail: str
    remedy: str = ""
    fix: Fix | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """A check as it is shown, and its fix if there is one."""

    check: Check
    fix: Fix | None = None


def passed(detail: str) -> Result:
    """All is as it should be."""
    return Result("pass", detail)


def skipped(detail: str) -> Result:
    """Does not concern this instance, or cannot be seen from here."""
    return Result("skip", detail)


def warned(detail: str, remedy: str | Fix) -> Result:
    """It works, but not as it could."""
    return _trouble("warn", detail, remedy)


def failed(detail: str, remedy: str | Fix) -> Result:
    """It does not work."""
    return _trouble("fail", detail, remedy)


def refused(error: BangerError, status: Status = "fail") -> Result:
    """What raised this error."""
    return Result(status, error.message, error.hint or "docs/doctor.md")


def _trouble(status: Status, detail: str, remedy: str | Fix) -> Result:
    return Result(status, detail, remedy) if isinstance(remedy, str) else Result(status, detail, remedy.text(), remedy)
