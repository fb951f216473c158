"""A request whose body fits its type, and what may answer it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .context import Context
from .operations import Operation


@dataclass(frozen=True, slots=True)
class Call:
    """A request whose body fits its type."""

    path: Mapping[str, str]
    query: Mapping[str, str]
    body: Any
    """The route's request type, or None when it has none."""


Answer = Callable[[Context, Call], Awaitable[object]]
Work = Callable[[Context, Call, Operation], Awaitable[object]]
