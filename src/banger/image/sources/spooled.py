"""What came through a pipe: the file that holds it is gone afterwards, so nothing may point back at it, in a record or in a message."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...model.errors import BangerError
from ...model.progress import Report
from .protocol import Made, Source

STDIN = "stdin"


@dataclasses.dataclass(frozen=True, slots=True)
class SpooledSource:
    """The source that its content turned out to be, without its ``place``, a path."""

    content: Source
    place: str

    @property
    def origin(self) -> str:
        return STDIN

    @property
    def name(self) -> str:
        return STDIN

    @property
    def reference(self) -> str:
        return ""

    @property
    def kernel(self) -> str:
        return self.content.kernel

    async def revision(self, report: Report) -> str:
        return ""

    async def make(self, staging: Path, report: Report) -> Made:
        """Raises what the content's source raises."""

        def renamed(stage: str, message: str = "", *, progress: float | None = None, warning: bool = False) -> None:
            report(stage, _renamed(message, self.place), progress=progress, warning=warning)

        with called_stdin(self.place):
            return dataclasses.replace(await self.content.make(staging, renamed), revision="")


@contextmanager
def called_stdin(place: str) -> Iterator[None]:
    """Failures that speak of stdin, not of the file that holds what came from there."""
    try:
        yield
    except BangerError as error:
        raise type(error)(_renamed(error.message, place), hint=_renamed(error.hint, place)) from error


def _renamed(text: str, place: str) -> str:
    return text.replace(f"docker-archive:{place}", STDIN).replace(place, STDIN)
