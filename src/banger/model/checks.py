"""What a check of the host says: one line of ``banger doctor``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Status = Literal["pass", "warn", "fail", "skip"]
GROUPS: Final = ("host", "virtualisation", "network", "images", "installation")
"""In the order in which they are shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A check and what came of it."""

    id: str
    """``GROUP.WORD``; stays the same over versions."""
    name: str
    status: Status
    """``warn``: banger works, but not as well or as safely as it could. ``skip``: does not concern this instance, or cannot be seen from here."""
    detail: str
    remedy: str = ""
    """A command to paste, or what to do in words; never empty for ``fail``."""

    @property
    def group(self) -> str:
        return self.id.partition(".")[0]
