"""What went wrong, out of the hundreds of lines that apt, dpkg and mmdebstrap write."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from ..host.files import no_space
from ..model.errors import CommandFailed
from ..storage.ext4 import says_full

log = logging.getLogger(__name__)

_MARKS: Final = ("E: ", "dpkg: error", "dpkg-deb: error")
_KEPT: Final = 20
_NO_PACKAGE: Final = re.compile(r"Unable to locate package|has no installation candidate|Couldn't find any package|is not available")
"""apt's own words (apt-pkg and apt-private, under LC_ALL=C)."""


class Complaints:
    """Collects the lines that name a failure; the first one is usually the cause, those after it are its consequences."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.full = False

    def feed(self, line: str) -> None:
        """Take one line of output."""
        self.full = self.full or says_full(line)
        if line.startswith(_MARKS) and len(self.lines) < _KEPT:
            self.lines.append(line.removeprefix("E: "))

    @contextmanager
    def explain(self, what: str, where: Path) -> Iterator[None]:
        """Turn a failing program inside into one sentence; its whole output goes to the log. Raises NoSpace or CommandFailed."""
        try:
            yield
        except CommandFailed as error:
            log.warning("%s failed", what, extra={"output": error.message})
            if self.full:
                raise no_space(what, where) from error
            if not self.lines:
                raise
            question = "is the package's name right, and is it in this suite?" if _NO_PACKAGE.search(self.lines[0]) else "is the network up?"
            raise CommandFailed(f"{what} failed: {self.lines[0]}", hint=f"{question} the whole output is in the daemon's log") from error
