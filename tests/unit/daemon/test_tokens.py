from __future__ import annotations

import asyncio

import pytest

from banger.daemon import tokens as module
from banger.daemon.tokens import Tokens
from banger.model.errors import BangerError


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
    monkeypatch.setattr(module, "MAX_TOKENS", 1)
    tokens: Tokens[str] = Tokens()
    tokens.issue("a")
    with pytest.raises(BangerError):
        tokens.issue("b")
    tokens.close()
