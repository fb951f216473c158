"""Proving who asks: nothing, name and password, or a token of the registry's token service.

Source of the rules: distribution's "Token Authentication Specification" and "OAuth2 Token Authentication".
"""

from __future__ import annotations

import asyncio
import base64
import time
import urllib.parse
from typing import Annotated, Final

import httpx2
import msgspec

from ...model.errors import BangerError, Unauthorized
from .challenge import Challenge, parse_challenges
from .credentials import Credentials, Keychain
from .http import Http, read_bounded, retry_after
from .patience import Patience, Transient, bounded, retried

_ANSWER_LIMIT: Final = 1024 * 1024
_DEFAULT_SECONDS: Final = 60
"""How long a token lives when the service does not say (specification)."""
_MARGIN_SECONDS: Final = 5.0
_CLIENT: Final = "banger"


class _Answer(msgspec.Struct, frozen=True):
    token: str = ""
    access_token: str = ""
    expires_in: Annotated[int, msgspec.Meta(ge=0, le=10**9)] | None = None


class Authorizer:
    """Holds what opens one repository for reading."""

    def __init__(self, http: Http, keychain: Keychain, host: str, repository: str, patience: Patience) -> None:
        self._http = http
        self._keychain = keychain
        self._host = host
        self._repository = repository
        self._patience = patience
        self._lock = asyncio.Lock()
        self._header = ""
        self._until = float("inf")
        self._credentials: Credentials | None = None

    def header(self) -> str:
        """Value for Authorization; "" when none is known to be needed, or a new one is."""
        return self._header if time.monotonic() < self._until else ""

    async def answer(self, untrusted_headers: list[str], refused: str) -> None:
        """Get what these challenges ask for, unless it is no longer what was ``refused``. Raises Unauthorized, BangerError."""
        async with self._lock:
            if self.header() not in ("", refused):
                return  # another download has just done it
            self._credentials = self._credentials or await self._keychain.find(self._host, self._repository)
            challenges = {challenge.scheme: challenge for challenge in reversed(parse_challenges(untrusted_headers))}
            if "bearer" in challenges:
                bearer = challenges["bearer"]
                self._header, self._until = await retried(lambda: self._token(bearer), self._patience)
            elif "basic" in challenges:
                if self._credentials is None or not self._credentials.username:
                    raise self.refusal()
                self._header, self._until = _basic(self._credentials), float("inf")
            else:
                raise Unauthorized(f"{self._host} wants a kind of login that banger does not know", hint="known are basic and bearer")

    def refusal(self) -> Unauthorized:
        """The error for a registry that does not let us in."""
        what = f"{self._host}/{self._repository}"
        if self._credentials is not None:
            return Unauthorized(f"{self._host} does not accept the login in {self._credentials.source} for {what}", hint=f"docker login {self._host}")
        because = f"; {'; '.join(self._keychain.problems)}" if self._keychain.problems else ""
        return Unauthorized(f"{what} does not exist or needs a login{because}", hint=f"check the name, or: docker login {self._host}")

    async def _token(self, challenge: Challenge) -> tuple[str, float]:
        url = self._realm(challenge)
        asked = {"service": challenge.parameters.get("service", ""), "scope": f"repository:{self._repository}:pull"}
        known = self._credentials
        started = time.monotonic()
        async with bounded(httpx2.URL(url).host, self._patience):
            if known is not None and known.identity_token:
                form = {"grant_type": "refresh_token", "refresh_token": known.identity_token, "client_id": _CLIENT, **asked}
                content = urllib.parse.urlencode(form).encode()
                headers = {"Content-Type": "application/x-www-form-urlencoded"}
                async with self._http.exchange("POST", url, headers=headers, content=content) as response:
                    answer = await self._read(response)
            else:
                query = asked | ({"account": known.username} if known else {})
                full = str(httpx2.URL(url).copy_merge_params(query))
                async with self._http.exchange("GET", full, headers={}, authorization=_basic(known) if known else "") as response:
                    answer = await self._read(response)
        seconds = answer.expires_in or _DEFAULT_SECONDS
        return f"Bearer {answer.token or answer.access_token}", started + max(seconds - _MARGIN_SECONDS, 1.0)

    def _realm(self, challenge: Challenge) -> str:
        realm = challenge.parameters.get("realm", "")
        try:
            url = httpx2.URL(realm)
        except (httpx2.InvalidURL, ValueError):
            url = httpx2.URL("")
        if url.scheme not in ("http", "https") or not url.host or url.userinfo:
            raise BangerError(f"{self._host} names no address where tokens are given")
        return realm

    async def _read(self, response: httpx2.Response) -> _Answer:
        if response.status_code in (400, 401, 403):
            raise self.refusal()
        host = response.url.host
        if response.status_code != 200:
            error = BangerError(f"the token service {host} answers with status {response.status_code}")
            raise Transient(error, after=retry_after(response)) if response.status_code in (408, 429) or response.status_code >= 500 else error
        try:
            answer = msgspec.json.decode(await read_bounded(response, _ANSWER_LIMIT, f"the answer of {host}"), type=_Answer)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise BangerError(f"the token service {host} gives no token that is understood") from None
        token = answer.token or answer.access_token
        if not token or not token.isascii() or not token.isprintable():
            raise BangerError(f"the token service {host} gives no token")
        return answer


def _basic(credentials: Credentials) -> str:
    pair = f"{credentials.username}:{credentials.password}".encode()
    return f"Basic {base64.b64encode(pair).decode()}"
