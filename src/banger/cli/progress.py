"""What an operation is doing, on stderr: a live line on a terminal, plain lines elsewhere, NDJSON on request."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any, Final

import click

from ..api.types import Event
from .style import dim, plain

_QUICK: Final = frozenset(
    "resolve_image reserve_vm preflight system_overlay work_disk prepare_host_features network machine_config persist_handles vmm_launch "
    "configure_guest post_start_features persist send_signal kill_running_vm up_to_date cleanup_runtime delete_vm_dir".split()
)
"""Stages that take a moment: plain lines leave them out, since nobody waits for them. All stages are in ``--json`` and on a terminal."""
_PERCENT_STEP: Final = 0.1


class Progress:
    """Receives the events of one operation; a context manager, because a terminal must be tidied. This one is silent but for warnings."""

    def __call__(self, event: Event) -> None:
        if event.warning:
            self.warn(event)
        else:
            self.show(event)

    def show(self, event: Event) -> None:
        """A new stage, or news of the present one."""

    def warn(self, event: Event) -> None:
        click.echo(f"banger: warning: {plain(event.message)}", err=True)

    def close(self) -> None:
        """No more events; safe to call twice."""

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class PlainProgress(Progress):
    """One terse line when a stage begins that somebody may have to wait for, and at every tenth of its way."""

    def __init__(self) -> None:
        self._last: tuple[str, str, int] = ("", "", 0)

    def show(self, event: Event) -> None:
        if event.stage in _QUICK:
            return
        tenth = int((event.progress or 0) / _PERCENT_STEP + 1e-9)
        message = event.message if event.progress is None else ""
        if (event.stage, message, tenth) == self._last:
            return
        self._last = (event.stage, message, tenth)
        percent = f" {tenth * 10}%" if event.progress is not None else ""
        click.echo(plain(f"banger: {event.stage}{percent}{' ' + event.message if event.message else ''}"), err=True)


class JsonProgress(Progress):
    """Every event as a line of NDJSON."""

    def __call__(self, event: Event) -> None:
        from .output import print_json_line

        fields: dict[str, Any] = {"stage": event.stage, "message": event.message, "progress": event.progress, "elapsed": event.elapsed}
        print_json_line(fields | ({"warning": True} if event.warning else {}), err=True)


def progress(*, as_json: bool = False) -> Progress:
    """The right one for the caller's stderr."""
    if as_json:
        return JsonProgress()
    if sys.stderr.isatty():
        from .live import LiveProgress

        return LiveProgress()
    return PlainProgress()


def note(text: str) -> None:
    """A quiet line for people, on stderr."""
    click.echo(dim(text, sys.stderr), err=True)
