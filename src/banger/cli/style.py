"""Colour where it is wanted, and text from elsewhere made safe for a terminal."""

from __future__ import annotations

import os
from typing import Final, TextIO

import click

ACCENT: Final = "cyan"
_STATUS_COLOURS: Final = {"PASS": "green", "WARN": "yellow", "FAIL": "red"}


def is_colourful(stream: TextIO) -> bool:
    """A terminal, and nobody said otherwise (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def dim(text: str, stream: TextIO) -> str:
    return click.style(text, dim=True) if is_colourful(stream) else text


def heading(text: str, stream: TextIO) -> str:
    return click.style(text, fg=ACCENT, bold=True) if is_colourful(stream) else text


def status_word(word: str, stream: TextIO) -> str:
    return click.style(word, fg=_STATUS_COLOURS.get(word), bold=True) if is_colourful(stream) else word


def plain(text: str) -> str:
    """``text`` without anything a terminal would obey: control characters other than newline and tab are shown as U+FFFD."""
    text = text.replace("\r\n", "\n")
    if text.isprintable():
        return text
    return "".join(c if c in "\n\t" or c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
