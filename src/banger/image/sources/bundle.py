"""Bundles by URL or file; the digest of the whole is checked before anything in it is looked at."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Final
from urllib.parse import urlsplit

from ...host.files import explain_no_space, sha256_of
from ...model.errors import BadRequest, BangerError, NotFound
from ...model.progress import Report
from ...model.sizes import GIB, format_size
from .. import bundle
from ..ext4_file import check_ext4
from ..oci.reference import is_digest, is_loopback
from .background import in_background
from .files import file_revision
from .names import name_of_file
from .protocol import ROOTFS, STAGE, Made

MAX_DOWNLOAD: Final = 32 * GIB
_TIMEOUT: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleSource:
    """Exactly one of ``url`` and ``path``. A URL needs a ``digest`` (``sha256:...``), a file may have one."""

    kernel: str
    url: str = ""
    path: Path | None = None
    digest: str = ""
    size_limit: int = MAX_DOWNLOAD
    catalog_name: str = ""

    @property
    def origin(self) -> str:
        return self.url or f"file:{self.path}"

    @property
    def name(self) -> str:
        return self.catalog_name or name_of_file(self.path or Path(PurePosixPath(urlsplit(self.url).path).name or "bundle"))

    @property
    def reference(self) -> str:
        return self.url or str(self.path)

    async def revision(self, report: Report) -> str:
        """Raises OSError."""
        return file_revision(self.path) if self.path else self.digest

    async def make(self, staging: Path, report: Report) -> Made:
        """Raises BadRequest for what is no bundle, NotFound, NoSpace, BangerError."""
        revision = await self.revision(report)
        async with self._file(staging, report) as file:
            manifest = await in_background(partial(bundle.unpack, file, staging), report, STAGE, "unpacking")
        await check_ext4(staging / ROOTFS)
        facts = {"made_from": manifest.source, "made_at": manifest.created_at}
        return Made(
            digest=manifest.digest,
            revision=revision,
            manifest_digest=manifest.manifest_digest,
            config=manifest.config,
            kernel=manifest.kernel_name,
            facts=facts,
        )

    @asynccontextmanager
    async def _file(self, staging: Path, report: Report) -> AsyncIterator[Path]:
        """The bundle's bytes, with the digest that they must have."""
        if self.path is not None:
            if self.digest:
                report(STAGE, "checking the digest")
                self._check(await asyncio.to_thread(sha256_of, self.path))
            yield self.path
            return
        file = staging / "bundle"
        with explain_no_space("downloading the bundle", staging):
            self._check(await download(self.url, file, self.size_limit, report))
        yield file
        file.unlink()

    def _check(self, found: str) -> None:
        if found != self.digest:
            raise BadRequest(f"{self.origin} has digest {found}, not {self.digest}", hint="it was damaged or replaced; ask its maker which digest is right")


def check_url(url: str, digest: str) -> None:
    """Raises BadRequest for a URL that bundles are not taken from, or a missing or malformed digest."""
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(parts.hostname or "")):
        raise BadRequest(f"{url!r} is not an https URL", hint="a bundle comes from https://HOST/PATH, or from a file")
    if not is_digest(digest):
        raise BadRequest(f"a bundle by URL needs its digest, not {digest!r}", hint="--sha256 with the 64 digits that sha256sum shows for the file")


async def download(url: str, file: Path, limit: int, report: Report) -> str:
    """Write what ``url`` gives to the new ``file``: ``sha256:...`` of it. Raises BadRequest for more than ``limit`` bytes, NotFound, BangerError, OSError."""
    import httpx2

    sha, done = hashlib.sha256(), 0
    try:
        async with httpx2.AsyncClient(timeout=_TIMEOUT, follow_redirects=True, max_redirects=5) as client, client.stream("GET", url) as response:
            _check_answer(url, response.status_code, str(response.url), response.headers.get("content-type", ""))
            whole = int(length) if (length := response.headers.get("content-length", "")).isdigit() else 0
            with file.open("xb") as out:
                async for untrusted in response.aiter_raw(1 << 20):
                    done += len(untrusted)
                    if max(done, whole) > limit:
                        raise BadRequest(f"{url} is larger than {format_size(limit)}", hint="the catalog says how large it should be")
                    sha.update(untrusted)
                    out.write(untrusted)
                    report(STAGE, f"downloading {format_size(done)}", progress=done / whole if whole else None)
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise BangerError(f"cannot download {url}: {str(error) or type(error).__name__}", hint="is the network up?") from error
    return f"sha256:{sha.hexdigest()}"


def _check_answer(url: str, status: int, final: str, media_type: str) -> None:
    if status == 404:
        raise NotFound(f"there is nothing at {url}")
    if status != 200:
        raise BangerError(f"{url} answers with HTTP status {status}")
    if urlsplit(url).scheme == "https" and urlsplit(final).scheme != "https":
        raise BangerError(f"{url} leads to {final}, which is not https")
    if media_type.startswith("text/html"):
        raise BangerError(f"{url} is a web page, not a bundle", hint="use the address of the file itself")
