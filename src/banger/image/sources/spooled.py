"""What came through a pipe: the file that holds it is gone afterwards, so nothing may point back at it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from ...model.progress import Report
from .protocol import Made, Source


@dataclasses.dataclass(frozen=True, slots=True)
class SpooledSource:
    """The source that its content turned out to be, without its place."""

    content: Source

    @property
    def origin(self) -> str:
        return "stdin"

    @property
    def name(self) -> str:
        return "stdin"

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
        return dataclasses.replace(await self.content.make(staging, report), revision="")
