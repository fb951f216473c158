"""Fetch an image from wherever its reference leads to."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import stat
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from ...model.errors import BadRequest, BangerError, NotFound
from ...model.progress import Report, silent
from ...model.sizes import format_size
from .archive import ArchiveSource
from .blobs import BlobCache
from .compression import sniff
from .decompress import uncompressed
from .layout import LayoutSource
from .manifest import LINUX_AMD64, Configuration, Descriptor, Manifest, Platform, decode_config
from .members import DirectoryMembers, TarMembers
from .patience import Patience
from .protocol import Source
from .reference import Reference
from .types import FetchedImage, Layer

STAGE: Final = "pull_image"
_AT_ONCE: Final = 4
_REPORT_SECONDS: Final = 0.2
_REPORT_SHARE: Final = 0.05
PATIENCE: Final = Patience()


async def resolve(
    reference: Reference,
    cache: BlobCache,
    report: Report = silent,
    *,
    insecure: frozenset[str] = frozenset(),
    credentials: Path | None = None,
    patience: Patience = PATIENCE,
) -> str:
    """Today's digest of what the reference leads to: the ``manifest_digest`` that ``fetch`` would return. Fetches no layer.

    Raises NotFound, Unauthorized, BadRequest and BangerError.
    """
    async with _opened(reference, cache, _Manners(insecure, credentials, _telling(patience, report))) as source:
        return await source.resolve()


async def fetch(
    reference: Reference,
    cache: BlobCache,
    report: Report,
    *,
    platform: Platform = LINUX_AMD64,
    insecure: frozenset[str] = frozenset(),
    credentials: Path | None = None,
    patience: Patience = PATIENCE,
) -> FetchedImage:
    """Bring the image into the cache and say what it is. ``insecure`` names hosts (with their ports) that may be asked in plain HTTP,
    ``credentials`` a file that is asked for logins before those of the user.

    Raises NotFound, Unauthorized, BadRequest, NoSpace and BangerError; what has come till then stays in the cache for the next attempt.
    """
    where = str(reference).removeprefix("docker://")
    report(STAGE, where)
    async with _opened(reference, cache, _Manners(insecure, credentials, _telling(patience, report))) as source:
        digest = await source.resolve()
        manifest = await source.manifest(digest, platform)
        config = await _fetch_config(source, cache, manifest, platform, where)
        paths = await _fetch_layers(source, cache, manifest.layers, report)
    layers = tuple(_layer(blob, paths[blob.digest], diff_id) for blob, diff_id in zip(manifest.layers, config.diff_ids, strict=True))
    return FetchedImage(
        reference=str(reference),
        manifest_digest=digest,
        config_digest=manifest.config.digest,
        layers=layers,
        config=config.image,
        created=config.created,
        size_bytes=sum(layer.size_bytes for layer in layers),
    )


@dataclass(frozen=True, slots=True)
class _Manners:
    """How a registry is spoken to."""

    insecure: frozenset[str]
    credentials: Path | None
    patience: Patience


def _telling(patience: Patience, report: Report) -> Patience:
    """The same patience, which tells of every attempt that it makes: silence for minutes looks like a hang."""
    return dataclasses.replace(patience, tell=lambda message: report(STAGE, message))


@asynccontextmanager
async def _opened(reference: Reference, cache: BlobCache, manners: _Manners) -> AsyncIterator[Source]:
    where = str(reference)
    if reference.path and not reference.path.startswith("/"):
        raise BadRequest(f"{where}: the path is not absolute")  # relative to whom? not to the daemon
    if reference.transport == "oci":
        yield LayoutSource(DirectoryMembers(Path(reference.path)), reference.tag, where)
    elif reference.transport == "docker-archive":
        with _open_file(Path(reference.path)) as file:
            with await uncompressed(file, cache, where) as plain:
                members = await asyncio.to_thread(TarMembers, plain, where)
                yield ArchiveSource(members, reference.tag, where) if members.has("manifest.json") else LayoutSource(members, reference.tag, where)
    else:
        async with _registry(reference, cache, manners) as source:
            yield source


@asynccontextmanager
async def _registry(reference: Reference, cache: BlobCache, manners: _Manners) -> AsyncIterator[Source]:
    from .credentials import Keychain
    from .http import Http
    from .registry import RegistrySource

    http = Http(reference.api_host, manners.insecure, manners.patience)
    try:
        yield RegistrySource(reference, cache, http, Keychain(named=manners.credentials), manners.patience)
    finally:
        await http.close()


def _open_file(path: Path) -> BinaryIO:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe must not stop us
    except OSError as error:
        raise NotFound(f"{path} cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise NotFound(f"{path} is not a file", hint="a pipe is read with docker-archive:-")
    return os.fdopen(fd, "rb")


async def _fetch_config(source: Source, cache: BlobCache, manifest: Manifest, platform: Platform, where: str) -> Configuration:
    blob = manifest.config
    path = await cache.fetch(blob.digest, blob.size, lambda partial: source.load(blob, partial))
    return decode_config(await asyncio.to_thread(path.read_bytes), len(manifest.layers), platform, where)


async def _fetch_layers(source: Source, cache: BlobCache, blobs: list[Descriptor], report: Report) -> dict[str, Path]:
    """Digest -> file, of each layer once; the first failure ends the others."""
    different = {blob.digest: blob for blob in blobs}
    progress = _Progress(different, report)
    slots = asyncio.Semaphore(_AT_ONCE)

    async def fetch_one(blob: Descriptor) -> tuple[str, Path]:
        async with slots:
            return blob.digest, await cache.fetch(
                blob.digest, blob.size, lambda partial: source.load(blob, partial), lambda offset: progress.heard(blob.digest, offset)
            )

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(fetch_one(blob)) for blob in different.values()]
    except BaseExceptionGroup as failures:
        raise _first(failures) from failures
    return dict(task.result() for task in tasks)


class _Progress:
    """Tells how much of all layers is there, and of the one that grew last."""

    def __init__(self, blobs: dict[str, Descriptor], report: Report) -> None:
        self._sizes = {digest: blob.size for digest, blob in blobs.items()}
        self._numbers = {digest: number for number, digest in enumerate(blobs, 1)}
        self._there = dict.fromkeys(blobs, 0)
        self._total = sum(self._sizes.values())
        self._report = report
        self._told_at = 0.0
        self._told = 0

    def heard(self, digest: str, offset: int) -> None:
        """So many bytes of this layer are there."""
        complete = offset == self._sizes[digest] != self._there[digest]
        self._there[digest] = offset
        there = sum(self._there.values())
        if not complete and time.monotonic() - self._told_at < _REPORT_SECONDS and there - self._told < self._total * _REPORT_SHARE:
            return
        self._told_at, self._told = time.monotonic(), there
        layer = f"layer {self._numbers[digest]}/{len(self._sizes)}: {format_size(offset)} of {format_size(self._sizes[digest])}"
        self._report(STAGE, f"{format_size(there)} of {format_size(self._total)}, {layer}", progress=there / self._total if self._total else 1.0)


def _first(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    """The failure that ended the others; a designed one before what nobody expected."""
    flat = [one for failure in failures.exceptions for one in ([_first(failure)] if isinstance(failure, BaseExceptionGroup) else [failure])]
    return next((one for one in flat if isinstance(one, BangerError)), flat[0])


def _layer(blob: Descriptor, path: Path, diff_id: str) -> Layer:
    with path.open("rb") as file:
        compression = sniff(file.read(8))
    return Layer(path=path, media_type=blob.media_type, compression=compression, digest=blob.digest, diff_id=diff_id, size_bytes=blob.size)
