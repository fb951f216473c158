"""Sizes as people write them: ``512M``, ``4G``, ``4GiB``; a bare number means MiB."""

from __future__ import annotations

import re
from typing import Final

from .errors import BadRequest

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB
TIB: Final = 1024 * GIB

_UNITS: Final = {"": MIB, "K": KIB, "M": MIB, "G": GIB, "T": TIB}
_PATTERN: Final = re.compile(r"([0-9]{1,15})\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)


def parse_size(text: str, what: str = "size", *, zero: bool = False) -> int:
    """Bytes meant by ``text``; 0 only where ``zero`` is allowed.

    Raises BadRequest when it is not a positive whole number with an optional unit K, M, G or T (powers of 1024).
    """
    match = _PATTERN.fullmatch(text.strip())
    if match is None or (int(match[1]) == 0 and not zero):
        raise BadRequest(f"{what}: {text!r} is not a size", hint="write a positive number with a unit, like 512M, 4G or 4GiB; a bare number means MiB")
    return int(match[1]) * _UNITS[match[2].upper()]


def format_size(size: int) -> str:
    """``size`` bytes as ``8G``, ``512M``, ``1.5G``, ``17K`` or ``3B``."""
    for unit, factor in (("T", TIB), ("G", GIB), ("M", MIB), ("K", KIB)):
        if size >= factor:
            return f"{size / factor:.1f}".removesuffix(".0") + unit
    return f"{size}B"
