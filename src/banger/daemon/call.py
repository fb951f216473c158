"""A request whose body fits its type, and what may answer it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..model.errors import BadRequest
from .context import Context
from .operations import Operation


@dataclass(frozen=True, slots=True)
class Call:
    """A request whose body fits its type."""

    path: Mapping[str, str]
    query: Mapping[str, str]
    body: Any
    """The route's request type, or None when it has none."""


def absolute_path(text: str) -> Path:
    """A path that a caller names. Raises BadRequest for one that is not absolute: relative to whom?"""
    if not text.startswith("/") or "\0" in text:
        raise BadRequest(f"{text!r} is not an absolute path")
    return Path(text)


Answer = Callable[[Context, Call], Awaitable[object]]
Work = Callable[[Context, Call, Operation], Awaitable[object]]
