"""One-time tokens that connect a connection on attach.sock with the HTTP call that asked for it."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

log = logging.getLogger(__name__)

TOKEN_SECONDS: Final = 30.0
MAX_TOKENS: Final = 1024

Purpose = TypeVar("Purpose")


@dataclass(frozen=True, slots=True)
class _Pending(Generic[Purpose]):
    purpose: Purpose
    on_expired: Callable[[], None]
    timer: asyncio.TimerHandle


class Tokens(Generic[Purpose]):
    """Tokens that nobody has claimed yet. A token works once, and for ``seconds``."""

    def __init__(self, seconds: float = TOKEN_SECONDS) -> None:
        self._seconds = seconds
        self._pending: dict[str, _Pending[Purpose]] = {}

    def issue(self, purpose: Purpose, on_expired: Callable[[], None] = lambda: None) -> str:
        """A fresh token for ``purpose``; ``on_expired`` is called when nobody claims it in time, or so many others are issued meanwhile."""
        while len(self._pending) >= MAX_TOKENS:
            log.warning("too many tokens wait for their client, the oldest expires", extra={"tokens": MAX_TOKENS})
            self._expire(next(iter(self._pending)))
        token = secrets.token_urlsafe(24)
        timer = asyncio.get_running_loop().call_later(self._seconds, self._expire, token)
        self._pending[token] = _Pending(purpose, on_expired, timer)
        return token

    def claim(self, untrusted_token: str) -> Purpose | None:
        """What the token was issued for, or None when there is no such token (any more)."""
        pending = self._pending.pop(untrusted_token, None)
        if pending is None:
            return None
        pending.timer.cancel()
        return pending.purpose

    def close(self) -> None:
        """Let all of them expire now."""
        for token in list(self._pending):
            self._expire(token)

    def _expire(self, token: str) -> None:
        if pending := self._pending.pop(token, None):
            pending.timer.cancel()
            pending.on_expired()
