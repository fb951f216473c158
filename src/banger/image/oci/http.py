"""Requests to a registry and to the hosts it sends us to: which may be asked in plain HTTP, which get credentials, and what a failure means."""

from __future__ import annotations

import email.utils
import re
import socket
import ssl
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Final

import httpx2

from ... import __version__
from ...model.errors import BangerError
from .patience import Patience, Transient
from .reference import is_loopback

_REDIRECTS: Final = 5
_REDIRECT: Final = frozenset({301, 302, 303, 307, 308})
_LONGEST_URL: Final = 8192
_PROXY_HINT: Final = "see http_proxy, https_proxy, all_proxy and no_proxy in the daemon's environment"


class NotTls(BangerError):
    """Whoever listens there does not speak TLS."""


class Http:
    """A client for one registry. Answers are never decompressed: their bytes have digests."""

    def __init__(self, host: str, insecure: frozenset[str], patience: Patience) -> None:
        self._insecure = frozenset(map(_without_default_port, insecure))
        self._patience = patience
        self._client = _client(patience, proxied=not is_loopback(host))

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    def may_be_plain(self, host: str) -> bool:
        """Whether plain HTTP to this host (with its port, if any) is allowed: on this machine, or because the user named it."""
        return is_loopback(host) or _without_default_port(host) in self._insecure

    @asynccontextmanager
    async def exchange(
        self, method: str, url: str, *, headers: Mapping[str, str], authorization: str = "", content: bytes | None = None
    ) -> AsyncIterator[httpx2.Response]:
        """The answer, whatever its status, after redirects; its body is read inside the block. ``authorization`` goes to the host of ``url`` alone.

        Raises Transient, or BangerError when there is no use in another attempt; so do reads inside the block.
        """
        with _explained(url, self._patience):
            response = await self._open(method, httpx2.URL(url), dict(headers), authorization, content)
            try:
                yield response
            finally:
                await response.aclose()

    async def _open(self, method: str, url: httpx2.URL, headers: dict[str, str], authorization: str, content: bytes | None) -> httpx2.Response:
        for _ in range(_REDIRECTS + 1):
            self._check(url)
            secret = {"Authorization": authorization} if authorization else {}
            response = await self._client.send(self._client.build_request(method, url, headers=headers | secret, content=content), stream=True)
            if response.status_code not in _REDIRECT or content is not None:
                return response
            await response.aclose()
            target = _target(url, response.headers.get("location", ""))
            if _origin(target) != _origin(url):
                authorization = ""  # for good: what comes after another host is that host's choice
            url = target
        raise BangerError(f"{url.host} redirects more than {_REDIRECTS} times")

    def _check(self, url: httpx2.URL) -> None:
        if url.scheme != "https" and not self.may_be_plain(url.netloc.decode()):
            raise BangerError(f"{url.host} is to be reached without encryption", hint=f"if you trust the network: --insecure-registry {url.netloc.decode()}")


def _client(patience: Patience, *, proxied: bool) -> httpx2.AsyncClient:
    """``proxied``: by the environment's proxies, which cannot reach our loopback. Raises BangerError when one is no HTTP proxy."""
    try:
        return httpx2.AsyncClient(
            verify=ssl.create_default_context(),
            timeout=httpx2.Timeout(patience.stall, connect=patience.connect, pool=None),
            trust_env=proxied,
            headers={"User-Agent": f"banger/{__version__}", "Accept-Encoding": "identity"},
            follow_redirects=False,
        )
    except (ImportError, ValueError, httpx2.InvalidURL) as error:
        raise BangerError(f"the proxy in the daemon's environment cannot be used: {error}", hint=_PROXY_HINT) from error


async def read_bounded(response: httpx2.Response, limit: int, what: str) -> bytes:
    """The whole body. Raises BangerError when it is longer than ``limit`` bytes."""
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > limit:
            raise BangerError(f"{what} is larger than {limit} bytes")
    return bytes(body)


def retry_after(response: httpx2.Response) -> float | None:
    """Seconds that the server asks to wait (RFC 9110, section 10.2.3); None when it does not say, or not in these words."""
    untrusted = response.headers.get("retry-after", "").strip()
    if re.fullmatch(r"[0-9]{1,9}", untrusted):
        return float(untrusted)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(untrusted).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None


def same_origin(response: httpx2.Response, url: str) -> bool:
    """Whether the answer comes from where ``url`` points to, and not from a host that we were redirected to."""
    return _origin(response.url) == _origin(httpx2.URL(url))


def _target(url: httpx2.URL, untrusted_location: str) -> httpx2.URL:
    if not untrusted_location or len(untrusted_location) > _LONGEST_URL:
        raise BangerError(f"{url.host} redirects to nowhere")
    try:
        target = url.join(untrusted_location)
    except (httpx2.InvalidURL, ValueError) as error:
        raise BangerError(f"{url.host} redirects to something that is no URL") from error
    if target.scheme not in ("http", "https") or not target.host or target.userinfo:
        raise BangerError(f"{url.host} redirects to something that is no plain web address")
    if url.scheme == "https" and target.scheme == "http":
        raise BangerError(f"{url.host} redirects from https to http ({target.host})", hint="this is refused even for hosts that may be insecure")
    return target


def _without_default_port(host: str) -> str:
    return host.lower().removesuffix(":80")


def _origin(url: httpx2.URL) -> tuple[str, str, int]:
    return url.scheme, url.host, url.port or (443 if url.scheme == "https" else 80)


@contextmanager
def _explained(url: str, patience: Patience) -> Iterator[None]:
    """Turn what httpx2 raises into Transient or BangerError that names the host."""
    host = httpx2.URL(url).netloc.decode()
    try:
        yield
    except httpx2.ConnectError as error:
        raise _unreachable(error, host) from error
    except httpx2.ConnectTimeout as error:
        raise Transient(BangerError(f"{host} does not answer", hint="is the network up, and is the host's name right?")) from error
    except httpx2.TimeoutException as error:
        raise Transient(BangerError(f"{host} has sent nothing for {patience.stall:g} s")) from error
    except httpx2.ProxyError as error:
        raise BangerError(f"the proxy refuses the way to {host}: {error}", hint=_PROXY_HINT) from error
    except httpx2.TransportError as error:
        raise Transient(BangerError(f"the connection to {host} broke: {str(error) or type(error).__name__}")) from error


def _unreachable(error: httpx2.ConnectError, host: str) -> Exception:
    causes = list(_causes(error))
    if failed := next((cause for cause in causes if isinstance(cause, ssl.SSLCertVerificationError)), None):
        return BangerError(
            f"the certificate of {host} is not trusted: {failed.verify_message}",
            hint="put its authority into /usr/local/share/ca-certificates and run update-ca-certificates",
        )
    if any(isinstance(cause, ssl.SSLError) for cause in causes):
        return NotTls(f"{host} does not speak HTTPS", hint=f"if it is a registry without encryption that you trust: --insecure-registry {host}")
    if any(isinstance(cause, socket.gaierror) for cause in causes):
        return BangerError(f"no host {host} is known", hint="is the network up, and is the name right?")
    return BangerError(f"{host} cannot be reached: {error}", hint="is the network up, and does the registry run?")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
