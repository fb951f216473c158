"""git on the host, hardened: it writes no index, runs no hook and no monitor, asks nobody, and fetches nothing.

Where the user's own repository is read, his configuration holds (attributes, excludes, ``safe.directory``). Everything else is done in a *shadow*: a git
directory that we made, which borrows the repository's objects and has none of its configuration.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Final

from ..host.run import Completed
from ..host.run_sync import run_sync

DEADLINE: Final = 600.0
_OPTIONS: Final = (
    "--no-optional-locks", "--no-pager", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "-c", "gc.auto=0", "-c", "maintenance.auto=false",
)  # fmt: skip
_ENVIRONMENT: Final = {"GIT_TERMINAL_PROMPT": "0", "GIT_NO_REPLACE_OBJECTS": "1", "GIT_NO_LAZY_FETCH": "1", "GIT_ADVICE": "0"}
_NO_CONFIGURATION: Final = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_ATTR_NOSYSTEM": "1"}


class Git:
    """git in one place, with these options and variables."""

    def __init__(self, place: Path, *, options: Iterable[str] = (), environment: Mapping[str, str] | None = None) -> None:
        self._words = ("git", *_OPTIONS, *options)
        self._place = place
        self._environment = _ENVIRONMENT | dict(environment or {})

    @classmethod
    def of_user(cls, place: Path) -> Git:
        """git as the user has it, in ``place``: only for reading."""
        config = os.environ.get("XDG_CONFIG_HOME")
        return cls(place, environment={"XDG_CONFIG_HOME": config} if config else {})

    @classmethod
    def of_shadow(cls, git_dir: Path, borrowed: Path, *, work_tree: Path | None = None, objects: Path | None = None) -> Git:
        """git in a git directory of ours that borrows the objects in ``borrowed``; new ones go to ``objects`` (default: its own)."""
        options = [f"--git-dir={git_dir}", *([f"--work-tree={work_tree}"] if work_tree else [])]
        options += ["-c", "core.protectHFS=true", "-c", "core.protectNTFS=true", "-c", "core.autocrlf=false", "-c", "core.quotePath=true"]
        environment = _NO_CONFIGURATION | {
            "GIT_OBJECT_DIRECTORY": str(objects or git_dir / "objects"),
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": _alternate(borrowed),
        }
        return cls(work_tree or git_dir, options=options, environment=environment)

    def run(
        self, *words: str, stdin: bytes | IO[bytes] | None = None, allowed: Iterable[int] = (0,), environment: Mapping[str, str] | None = None
    ) -> Completed:
        """Run ``git WORDS``. Raises CommandFailed."""
        env = self._environment | dict(environment or {})
        return run_sync((*self._words, *words), deadline=DEADLINE, stdin=stdin, env=env, cwd=self._place, allowed=allowed)

    def output(self, *words: str, stdin: bytes | IO[bytes] | None = None) -> bytes:
        """What ``git WORDS`` prints."""
        return self.run(*words, stdin=stdin).stdout

    def line(self, *words: str, stdin: bytes | None = None) -> str:
        """The one line that ``git WORDS`` prints, without its end; "" when it fails with status 1, which is how git says "there is none"."""
        return os.fsdecode(self.run(*words, stdin=stdin, allowed=(0, 1)).stdout.removesuffix(b"\n"))


def _alternate(path: Path) -> str:
    """``path`` for a list that is split at colons: quoted as in C when it has one (git(1), GIT_ALTERNATE_OBJECT_DIRECTORIES)."""
    text = str(path)
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"' if ":" in text or text.startswith('"') else text
