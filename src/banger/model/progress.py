"""How long work tells what it is doing."""

from __future__ import annotations

from typing import Protocol


class Report(Protocol):
    """Receives what an operation is doing; cheap, never blocks, never raises."""

    def __call__(self, stage: str, message: str = "", *, progress: float | None = None, warning: bool = False) -> None:
        """``stage`` is a stable word; ``message`` is for people; ``progress`` is 0..1 where it is known."""


def silent(stage: str, message: str = "", *, progress: float | None = None, warning: bool = False) -> None:
    """A Report that drops everything."""
