"""Blobs by digest, each fetched once however many want it, here or in other processes; what was interrupted is resumed.

``blobs/sha256/<hex>`` is complete: it got that name after its bytes had been checked. ``partial/<hex>`` belongs to whoever holds the flock on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from ...host.files import explain_no_space, sha256_of, sync_directory, write_atomically
from ...host.locks import is_at, try_lock
from ...host.threads import run_to_end
from ...model.errors import BangerError, NoSpace
from .partial import Partial

log = logging.getLogger(__name__)

_POLL_SECONDS: Final = 0.1

Load = Callable[[Partial], Awaitable[None]]
"""Brings the bytes from ``partial.offset`` on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """What was removed, or would be."""

    count: int
    size_bytes: int
    kept: int = 0
    """Blobs that stay because a pull under way may read them."""


class BlobCache:
    """The cache below one directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        """The directory."""
        self._blobs = root / "blobs" / "sha256"
        self._partials = root / "partial"

    def path(self, digest: str) -> Path:
        """Where the blob is when it is there."""
        return self._blobs / digest.removeprefix("sha256:")

    async def verify(self, digest: str) -> bool:
        """Whether the blob is there and has this digest; one that has not is removed, and will be fetched again."""
        path = self.path(digest)
        try:
            if await run_to_end(sha256_of, path) == digest:
                return True
        except FileNotFoundError:
            return False
        self._remove_damaged(path)
        return False

    async def fetch(self, digest: str, size: int, load: Load, heard: Callable[[int], None] = lambda _: None) -> Path:
        """The blob, loaded when it is not there yet; ``heard`` is told how many bytes there are.

        Whoever else loads it meanwhile is waited for. Raises BangerError when what comes is something else, NoSpace, and what ``load`` raises; what
        has come till then is kept for the next attempt.
        """
        with explain_no_space("fetching an image", self.root):
            self._make_directories()
            while (found := await self._find(digest, size)) is None:
                async with self._locked_partial(digest) as file:
                    if file is not None:
                        await self._fill(digest, Partial(file, size, heard), load)
            heard(size)
            return found

    async def document(self, digest: str, limit: int, load: Callable[[], Awaitable[bytes]]) -> bytes:
        """A small blob, of unknown size up to ``limit`` bytes. Raises BangerError when what ``load`` gives has another digest."""
        path = self.path(digest)
        with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
            content = file.read(limit)
            if _digest(content) == digest:
                os.utime(path)
                return content
            self._remove_damaged(path)
        content = await load()
        if _digest(content) != digest:
            raise BangerError(f"a manifest was to have the digest {digest}, what came has {_digest(content)}")
        with explain_no_space("fetching an image", self.root):
            self._make_directories()
            write_atomically(path, content)
        return content

    def prune(self, keep: Collection[str], *, unused_for: float = 0.0, dry_run: bool = False) -> Pruned:
        """Remove all blobs but those with these digests, and those used in the last ``unused_for`` seconds; also what was left half-loaded by nobody
        who still runs. What cannot be removed is logged and not counted.
        """
        kept = {digest.removeprefix("sha256:") for digest in keep}
        oldest = time.time() - unused_for
        there = [path for path in (*_files(self._blobs), *_files(self._partials)) if path.name not in kept]
        sizes = [size for path in _files(self._blobs) if path.name not in kept and (size := _remove(path, oldest, dry_run)) is not None]
        for path in _files(self._partials):
            if (held := try_lock(path)) is not None:
                try:
                    if (size := _remove(path, oldest, dry_run)) is not None:
                        sizes.append(size)
                finally:
                    os.close(held)
        return Pruned(count=len(sizes), size_bytes=sum(sizes), kept=len(there) - len(sizes))

    def scratch(self) -> BinaryIO:
        """A file without a name, for what must be unpacked before it can be read; it vanishes when closed."""
        self._make_directories()
        return os.fdopen(os.open(self._partials, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600), "r+b", buffering=0)

    async def _find(self, digest: str, size: int) -> Path | None:
        """The blob, marked as used now; None when it is not there. One of another size is damaged, or the manifest is wrong."""
        path = self.path(digest)
        try:
            there = path.stat().st_size
        except FileNotFoundError:
            return None
        if there == size:
            os.utime(path)
            return path
        if await self.verify(digest):  # not to be removed: somebody may use it, whatever this manifest says
            raise BangerError(f"the manifest says that {digest} has {size} bytes, it has {there}")
        return None

    def _make_directories(self) -> None:
        for path in (self.root, self._blobs, self._partials):
            path.mkdir(parents=True, exist_ok=True, mode=0o700)

    def _remove_damaged(self, path: Path) -> None:
        log.warning("a cached blob is damaged and is fetched again", extra={"path": str(path)})
        path.unlink(missing_ok=True)

    @asynccontextmanager
    async def _locked_partial(self, digest: str) -> AsyncIterator[BinaryIO | None]:
        """The half-loaded blob, ours alone; None when another has just finished it."""
        path = self._partials / digest.removeprefix("sha256:")
        while (fd := try_lock(path)) is None:  # noqa: ASYNC110 - nobody tells when another process lets go of a flock
            await asyncio.sleep(_POLL_SECONDS)
        with os.fdopen(fd, "r+b", buffering=0) as file:
            if not is_at(fd, path):
                yield None
            elif self.path(digest).exists():
                path.unlink()
                yield None
            else:
                yield file

    async def _fill(self, digest: str, partial: Partial, load: Load) -> None:
        path = self._partials / digest.removeprefix("sha256:")
        try:
            await partial.resume()
            resumed = partial.offset > 0
            found = await _load(partial, load)
            if found != digest and resumed:
                # It may be the beginning that is wrong, which an earlier run has left.
                await partial.restart()
                found = await _load(partial, load)
            if found != digest:
                path.unlink()
                raise BangerError(f"what came for {digest} is damaged: it has the digest {found}", hint="try again; something on the way changes it")
            await run_to_end(_publish, partial.fileno(), path, self.path(digest))
        except (NoSpace, OSError):
            path.unlink(missing_ok=True)
            raise


async def _load(partial: Partial, load: Load) -> str:
    """Load the rest and return the digest of all; what has come is kept, whatever happens."""
    try:
        if partial.offset < partial.size:
            await load(partial)
    finally:
        await partial.flush()
    return partial.digest()


def _publish(fd: int, path: Path, final: Path) -> None:
    os.fsync(fd)
    os.rename(path, final)
    sync_directory(final.parent)


def _digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def _files(directory: Path) -> list[Path]:
    return sorted(directory.iterdir()) if directory.is_dir() else []


def _remove(path: Path, oldest: float, dry_run: bool) -> int | None:
    try:
        info = path.stat()
        if info.st_mtime > oldest:
            return None
        if not dry_run:
            path.unlink()
    except FileNotFoundError:
        return None
    except OSError as error:
        log.warning("cannot remove a cached blob", extra={"path": str(path), "error": str(error)})
        return None
    return info.st_size
