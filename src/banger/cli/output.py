"""Results on stdout: JSON, tables, aligned fields, times."""

from __future__ import annotations

import time
from collections.abc import Sequence

import click
import msgspec

from ..api.codec import encode
from .style import plain

_GAP = "  "


def print_json(value: object) -> None:
    """``value`` (a reply or a record of the model) as indented JSON."""
    click.echo(msgspec.json.format(encode(value), indent=2))


def print_json_line(value: object, *, err: bool = False) -> None:
    """``value`` as one line of NDJSON."""
    click.echo(encode(value), err=err)


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Aligned columns under a head line; the last column is not padded."""
    cells = [list(head), *([plain(cell).replace("\n", " ") for cell in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head) - 1)]
    for row in cells:
        click.echo(_GAP.join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]).rstrip())


def print_fields(fields: Sequence[tuple[str, str]]) -> None:
    """Aligned ``key  value`` lines; those without a value are left out."""
    shown = [(key, plain(value)) for key, value in fields if value]
    width = max((len(key) for key, _ in shown), default=0)
    for key, value in shown:
        click.echo(f"{key.ljust(width)}{_GAP}{value.rstrip().replace(chr(10), chr(10) + ' ' * (width + len(_GAP)))}")


def ago(when: float, now: float | None = None) -> str:
    """``3 minutes ago`` for a time in seconds since 1970."""
    passed = max(0, int((time.time() if now is None else now) - when))
    for unit, seconds in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if passed >= seconds:
            count = passed // seconds
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "just now" if passed < 5 else f"{passed} seconds ago"


def local_time(when: float) -> str:
    """``2026-11-20 14:02:11`` in the caller's time zone."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(when))
