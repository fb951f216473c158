"""Live progress on a terminal's stderr: one line with the stage, its bar where the way is known, and the elapsed time.

rich costs 50 ms to import, so that happens when the first event has come: the daemon is at work meanwhile.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from ..api.types import Event
from .progress import Progress
from .style import ACCENT, is_colourful, plain

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

_LONGEST = 60


class LiveProgress(Progress):
    """Gone without a trace when the operation ends."""

    def __init__(self) -> None:
        self._view: RichProgress | None = None
        self._task: TaskID | None = None

    def show(self, event: Event) -> None:
        if self._view is None:
            self._view = _new_view()
            self._task = self._view.add_task("", total=None, detail="")
            self._view.start()
        assert self._task is not None
        detail = plain(event.message).replace("\n", " ")[:_LONGEST]
        total = None if event.progress is None else 1.0
        self._view.update(self._task, description=event.stage, detail=detail, total=total, completed=event.progress or 0.0)

    def warn(self, event: Event) -> None:
        if self._view is not None:
            self._view.console.print(f"banger: warning: {plain(event.message)}", markup=False, highlight=False, soft_wrap=True)
        else:
            super().warn(event)

    def close(self) -> None:
        if self._view is not None:
            self._view.stop()
            self._view = None


def _new_view() -> RichProgress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
    from rich.text import Text

    class KnownBar(BarColumn):
        """A bar with a percentage, only where there is something to measure."""

        def render(self, task: Task) -> Text:  # type: ignore[override]  # a bar is drawn as text, so that nothing can be drawn too
            if task.total is None:
                return Text("")
            filled = int(task.percentage / 5)
            return Text.assemble(("━" * filled, ACCENT), ("━" * (20 - filled), "dim"), f" {task.percentage:3.0f}%")

    class Elapsed(ProgressColumn):
        """Seconds since the operation began."""

        def render(self, task: Task) -> Text:
            return Text(f"{task.elapsed or 0.0:.1f} s", style="dim")

    return Progress(
        SpinnerColumn(style=ACCENT),
        TextColumn("{task.description}", markup=False, style=ACCENT),
        KnownBar(),
        TextColumn("{task.fields[detail]}", markup=False, style="dim"),
        Elapsed(),
        console=Console(stderr=True, highlight=False, color_system="auto" if is_colourful(sys.stderr) else None),
        transient=True,
    )
