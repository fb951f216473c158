from __future__ import annotations

import asyncio

import pytest

from banger.daemon import tokens as module
from banger.daemon.tokens import Tokens


async def test_a_token_works_once() -> None:
    tokens: Tokens[str] = Tokens()
    token = tokens.issue("this")
    assert tokens.claim("") is None and tokens.claim(token + "x") is None
    assert tokens.claim(token) == "this"
    assert tokens.claim(token) is None
    tokens.close()


async def test_an_unclaimed_token_expires_and_tells() -> None:
    tokens: Tokens[str] = Tokens(seconds=0.01)
    expired = asyncio.Event()
    token = tokens.issue("this", expired.set)
    await expired.wait()
    assert tokens.claim(token) is None


async def test_a_claimed_token_does_not_expire_and_close_expires_the_rest() -> None:
    tokens: Tokens[str] = Tokens()
    expired: list[str] = []
    claimed = tokens.issue("a", lambda: expired.append("a"))
    tokens.issue("b", lambda: expired.append("b"))
    tokens.claim(claimed)
    tokens.close()
    tokens.close()
    assert expired == ["b"]


async def test_tokens_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """One more is never refused: the oldest that nobody has claimed makes room."""
    monkeypatch.setattr(module, "MAX_TOKENS", 2)
    tokens: Tokens[str] = Tokens()
    expired: list[str] = []
    issued = [tokens.issue(name, lambda name=name: expired.append(name)) for name in ("a", "b", "c")]  # type: ignore[misc]
    assert expired == ["a"]
    assert [tokens.claim(token) for token in issued] == [None, "b", "c"]
    tokens.close()
