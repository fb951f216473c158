"""How far a copy is, on stderr, once it takes longer than a second."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Final

import click

from ..model.sizes import format_size

_PATIENCE: Final = 1.0
_INTERVAL: Final = 0.2
_BAR: Final = 24


class TransferProgress:
    """A line on a terminal that is rewritten; nothing elsewhere. Called with the bytes of every piece and the total, where it is known."""

    def __init__(self, *, shown: bool) -> None:
        self._live = shown and sys.stderr.isatty()
        self._begin = time.monotonic()
        self._next = self._begin + _PATIENCE
        self._moved = 0
        self._drawn = False

    def __call__(self, size: int, total: int | None) -> None:
        self._moved += size
        if self._live and (now := time.monotonic()) >= self._next:
            self._next = now + _INTERVAL
            self._draw(total, self._moved / (now - self._begin))

    def _draw(self, total: int | None, rate: float) -> None:
        bar = ""
        if total:
            done = min(1.0, self._moved / total)
            bar = f"[{('#' * int(done * _BAR)).ljust(_BAR)}] {done:4.0%}  "
        click.echo(f"\r\x1b[K{bar}{format_size(self._moved)}  {format_size(int(rate))}/s", nl=False, err=True)
        self._drawn = True

    def summary(self, entries: int, size: int, target: str) -> None:
        """One quiet line at the end, when somebody watches or waited."""
        if self._live:
            from .progress import note

            seconds = max(time.monotonic() - self._begin, 1e-3)
            note(f"copied {entries} {'entry' if entries == 1 else 'entries'}, {format_size(size)} to {target} in {seconds:.1f} s")

    def __enter__(self) -> TransferProgress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._drawn:
            click.echo("\r\x1b[K", nl=False, err=True)
