"""Images in a registry (OCI distribution specification 1.1, which Docker's registries speak too)."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

import httpx2
import msgspec

from ...model.errors import BangerError, NotFound, Unauthorized
from .blobs import BlobCache
from .credentials import Keychain
from .http import Http, NotTls, read_bounded, retry_after, same_origin
from .manifest import ACCEPTED, MANIFEST_LIMIT, Descriptor, Manifest, Platform, web_page
from .partial import Partial
from .patience import Patience, Transient, bounded, retried
from .reference import Reference, is_digest
from .selection import select_manifest
from .tokens import Authorizer

_ERROR_LIMIT: Final = 64 * 1024
_RANGE: Final = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})")
_ACCEPT: Final = {"Accept": ", ".join(ACCEPTED)}
_BUSY: Final = frozenset({408, 425, 429, 500, 502, 503, 504})


class _Complaint(msgspec.Struct, frozen=True):
    message: str = ""
    code: str = ""


class _Complaints(msgspec.Struct, frozen=True):
    errors: list[_Complaint]


class RegistrySource:
    """One reference in its registry. Documents are kept in the cache, so that what is pinned by a digest needs no network the second time."""

    def __init__(self, reference: Reference, cache: BlobCache, http: Http, keychain: Keychain, patience: Patience) -> None:
        self._reference = reference
        self._where = str(reference).removeprefix("docker://")
        self._cache = cache
        self._http = http
        self._patience = patience
        self._authorizer = Authorizer(http, keychain, reference.host, reference.repository, patience)
        self._scheme = ""
        self._scheme_lock = asyncio.Lock()

    async def resolve(self) -> str:
        """The digest in the reference, else that of its tag: one HEAD request."""
        if self._reference.digest:
            return self._reference.digest
        path = f"manifests/{self._reference.tag}"

        async def head() -> str:
            async with bounded(self._reference.host, self._patience), self._answered("HEAD", path, _ACCEPT, {200, 405}) as response:
                return str(response.headers.get("docker-content-digest", "")) if response.status_code == 200 else ""

        untrusted = await retried(head, self._patience)
        if is_digest(untrusted):
            return untrusted
        # Not every registry tells it; then the document itself does.
        document = await self._fetch_document(path)
        digest = "sha256:" + hashlib.sha256(document).hexdigest()
        await self._cache.document(digest, MANIFEST_LIMIT, lambda: _ready(document))
        return digest

    async def manifest(self, digest: str, platform: Platform) -> Manifest:
        """By its digest, of the cache or the registry."""

        async def read(one: str) -> bytes:
            return await self._cache.document(one, MANIFEST_LIMIT, lambda: self._fetch_document(f"manifests/{one}"))

        return await select_manifest(read, digest, platform, self._where)

    async def load(self, blob: Descriptor, partial: Partial) -> None:
        """Download the rest of a blob; goes on where a broken connection ended."""
        await retried(lambda: self._download(blob, partial), self._patience, progress=lambda: partial.offset)

    async def _download(self, blob: Descriptor, partial: Partial) -> None:
        if partial.offset == blob.size:
            return  # the connection broke after the last byte
        wanted = {"Range": f"bytes={partial.offset}-"} if partial.offset else {}
        async with self._answered("GET", f"blobs/{blob.digest}", wanted, {200, 206, 416}) as response:
            if response.status_code != 200 and not (response.status_code == 206 and _continues(response, partial)):
                await partial.restart()
                raise Transient(BangerError(f"{response.url.host} does not give the rest of {blob.digest}"))
            if response.status_code == 200:
                self._check_length(response, blob)
                await partial.restart()
            async for chunk in response.aiter_raw():
                await partial.write(chunk)
        if partial.offset < blob.size:
            raise Transient(BangerError(f"{response.url.host} ended {blob.digest} after {partial.offset} of {blob.size} bytes"))

    def _check_length(self, response: httpx2.Response, blob: Descriptor) -> None:
        untrusted = response.headers.get("content-length", str(blob.size))
        if untrusted == str(blob.size):
            return
        if response.headers.get("content-type", "").startswith("text/html"):
            raise web_page(self._where)
        raise BangerError(f"{self._where}: {response.url.host} has {untrusted[:20]} bytes for {blob.digest}, the manifest says {blob.size}")

    async def _fetch_document(self, path: str) -> bytes:
        async def get() -> bytes:
            async with bounded(self._reference.host, self._patience), self._answered("GET", path, _ACCEPT, {200}) as response:
                if response.headers.get("content-type", "").startswith("text/html"):
                    raise web_page(self._where)
                return await read_bounded(response, MANIFEST_LIMIT, f"{self._where}: the manifest")

        return await retried(get, self._patience)

    @asynccontextmanager
    async def _answered(self, method: str, path: str, headers: Mapping[str, str], good: set[int]) -> AsyncIterator[httpx2.Response]:
        """The answer with one of the ``good`` statuses; proves who we are when asked to. Raises as Http.exchange, NotFound and Unauthorized."""
        url = f"{await self._base()}/v2/{self._reference.repository}/{path}"
        sent = self._authorizer.header()
        async with self._http.exchange(method, url, headers=headers, authorization=sent) as response:
            challenged = response.status_code == 401 and same_origin(response, url)
            if not challenged:
                yield await self._checked(response, good, path)
                return
            challenges = response.headers.get_list("www-authenticate")
        await self._authorizer.answer(challenges, sent)
        async with self._http.exchange(method, url, headers=headers, authorization=self._authorizer.header()) as response:
            if response.status_code == 401 and same_origin(response, url):
                raise self._authorizer.refusal()
            yield await self._checked(response, good, path)

    async def _base(self) -> str:
        """Scheme and host: https, unless plain HTTP is allowed there and https is not spoken."""
        host = self._reference.api_host
        async with self._scheme_lock:
            if not self._scheme:
                self._scheme = "http" if self._http.may_be_plain(host) and not await self._speaks_tls(host) else "https"
        return f"{self._scheme}://{host}"

    async def _speaks_tls(self, host: str) -> bool:
        try:
            async with self._http.exchange("GET", f"https://{host}/v2/", headers={}):
                return True
        except NotTls:
            return False
        except (BangerError, Transient):
            # Without a port the two are different doors; then the one that is open counts. With one, the next request says what is wrong.
            return bool(re.search(r":[0-9]+$", host))

    async def _checked(self, response: httpx2.Response, good: set[int], path: str) -> httpx2.Response:
        if response.status_code in good:
            return response
        said = _what_it_says(await read_bounded(response, _ERROR_LIMIT, "the answer"))
        status, host = response.status_code, response.url.netloc.decode()
        if status == 404 and path.startswith("blobs/"):
            message = f"{self._where} is not whole: {host} does not have {path.removeprefix('blobs/')}, which its manifest names{said}"
            raise NotFound(message, hint="it has to be pushed again")
        if status == 404:
            raise NotFound(
                f"{self._where} is not there{said}", hint=f"see the tags: skopeo list-tags docker://{self._reference.host}/{self._reference.repository}"
            )
        if status in (401, 403):
            raise Unauthorized(f"{host} refuses {self._where}{said}", hint=f"may this login read it? docker login {self._reference.host}")
        if status == 429:
            error = BangerError(f"{host} has had too many requests from here{said}", hint=f"wait, or: docker login {self._reference.host}")
        else:
            error = BangerError(f"{host} answers with status {status}{said}", hint="try again later" if status >= 500 else "")
        raise Transient(error, after=retry_after(response)) if status in _BUSY else error


def _continues(response: httpx2.Response, partial: Partial) -> bool:
    """Whether this is the rest that we asked for, of a blob of the right size (RFC 9110, section 14.4)."""
    match = _RANGE.fullmatch(response.headers.get("content-range", ""))
    return match is not None and partial.offset > 0 and (int(match[1]), int(match[2]), int(match[3])) == (partial.offset, partial.size - 1, partial.size)


def _what_it_says(untrusted: bytes) -> str:
    """The registry's own words, for the end of a message; "" when there are none."""
    try:
        first = next(iter(msgspec.json.decode(untrusted, type=_Complaints).errors), _Complaint())
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ""
    words = "".join(c for c in first.message or first.code if c.isprintable())[:200]
    return f": {words}" if words else ""


async def _ready(document: bytes) -> bytes:
    return document
