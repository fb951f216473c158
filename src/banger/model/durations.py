"""Durations as people write them: ``90s``, ``30m``, ``2h``, ``1h30m``; ``0`` means never."""

from __future__ import annotations

import re
from typing import Final

from .errors import BadRequest

MAX_DURATION: Final = 10 * 365 * 86400.0
"""Ten years, in seconds: anything longer is a slip of the keyboard."""

_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)(ms|s|m|h|d)")
_WHOLE: Final = re.compile(rf"(?:{_PART.pattern})+")


def parse_duration(text: str, what: str = "duration") -> float:
    """Seconds meant by ``text``; 0.0 for ``0``. Raises BadRequest when it is not a number with a unit, or longer than ten years."""
    bare = text.strip().lower()
    if bare == "0":
        return 0.0
    if _WHOLE.fullmatch(bare) is None:
        raise BadRequest(f"{what}: {text!r} is not a duration", hint="write a number with a unit, like 90s, 30m, 2h or 1h30m; 0 means never")
    return check_duration(sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(bare)), what)


def check_duration(seconds: float, what: str) -> float:
    """``seconds`` itself; raises BadRequest below zero or above ten years."""
    if not 0 <= seconds <= MAX_DURATION:
        raise BadRequest(f"{what} must be between 0 and ten years, not {seconds:g} seconds", hint="write a duration like 90s, 30m or 2h; 0 means never")
    return seconds


def format_duration(seconds: float) -> str:
    """``seconds`` as ``90s``, ``30m``, ``2h`` or ``1h30m5s``; ``0`` for nothing."""
    if seconds < 120:
        return f"{seconds:.3f}".rstrip("0").rstrip(".") + ("s" if seconds else "")
    rest, words = round(seconds), ""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, rest = divmod(rest, size)
        words += f"{count}{unit}" if count else ""
    return words
