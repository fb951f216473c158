"""The way from blobs to an image: threads decompress, one merges what they have so far, then one writes while another hashes."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ...host.files import explain_no_space
from ...host.threads import run_to_end
from ...model.progress import Report
from ...storage.ext4image.write import write_image
from ..oci.types import Layer
from .decompress import sniff
from .limits import BadArchive, Limits
from .spool import Blob, Budget, Spool
from .tar import read_entries
from .tree import Tree

STAGE: Final = "flatten_image"
LABEL: Final = "banger-base"
_THREADS: Final = 2
_READING_SHARE: Final = 0.6
"""Part of the time until the tree is there."""
_REPORT_INTERVAL: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Flattened:
    """A finished ext4 image."""

    size_bytes: int
    """Of the file."""
    entries: int
    """Of all archives together."""
    content_bytes: int
    """Of the regular files that remain, without holes."""
    digest: str
    """``sha256:<hex>`` of the file."""


async def flatten(layers: Sequence[Layer], destination: Path, staging: Path, *, limits: Limits, report: Report) -> Flattened:
    """Make the new file ``destination`` from the layers, the lowest first, verifying their diff-ids.

    ``staging`` is a directory with room for the uncompressed layers. Raises BadArchive, BadRequest for what ext4 cannot hold, NoSpace, OSError;
    nothing stays then, nor when it is cancelled.
    """
    blobs = [
        Blob(path=layer.path, compression=layer.compression, diff_id=layer.diff_id, name=f"layer {number} of {len(layers)} ({layer.digest[:19]})")
        for number, layer in enumerate(layers, 1)
    ]
    return await _make(blobs, destination, staging, limits, report, whiteouts=True)


async def flatten_tar(tar: Path, destination: Path, staging: Path, *, limits: Limits, report: Report) -> Flattened:
    """The same from one archive of a whole root file system, plain or compressed with gzip, zstd or xz; it has no whiteouts, and is not empty."""
    with tar.open("rb") as file:
        compression = sniff(file.read(8))
    return await _make([Blob(path=tar, compression=compression, name=str(tar))], destination, staging, limits, report, whiteouts=False)


async def _make(blobs: Sequence[Blob], destination: Path, staging: Path, limits: Limits, report: Report, *, whiteouts: bool) -> Flattened:
    if len(blobs) > limits.layers:
        raise BadArchive(f"the image has {len(blobs)} layers, more than we take ({limits.layers})")
    progress = _Progress(report, sum(blob.path.stat().st_size for blob in blobs))
    work = _Work(blobs, destination, staging, Budget(limits, progress.on_read), progress, whiteouts=whiteouts)
    running = asyncio.ensure_future(run_to_end(work.run))
    try:
        flattened, warnings = await asyncio.shield(running)
    except asyncio.CancelledError:
        work.budget.stopped.set()
        running.cancel()
        while not running.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait((running,))
        destination.unlink(missing_ok=True)
        raise
    for warning in warnings:
        report(STAGE, warning, warning=True)
    return flattened


class _Progress:
    """Tells the event loop, from any thread, and not too often."""

    def __init__(self, report: Report, packed: int) -> None:
        self._report = report
        self._packed = max(packed, 1)
        self._read = 0
        self._told = 0.0
        self._loop = asyncio.get_running_loop()

    def on_read(self, size: int) -> None:
        self._read += size
        self._tell("unpacking layers", min(self._read / self._packed, 1.0) * _READING_SHARE)

    def on_copied(self, done: int, total: int) -> None:
        self._tell("writing the file system", _READING_SHARE + (1 - _READING_SHARE) * done / max(total, 1))

    def _tell(self, message: str, fraction: float) -> None:
        now = time.monotonic()
        if now - self._told >= _REPORT_INTERVAL:
            self._told = now
            self._loop.call_soon_threadsafe(lambda: self._report(STAGE, message, progress=fraction))


class _Work:
    """The blocking part."""

    def __init__(self, blobs: Sequence[Blob], destination: Path, staging: Path, budget: Budget, progress: _Progress, *, whiteouts: bool) -> None:
        self.budget = budget
        self._blobs = blobs
        self._destination = destination
        self._staging = staging
        self._progress = progress
        self._whiteouts = whiteouts

    def run(self) -> tuple[Flattened, list[str]]:
        """The result, and what to warn of."""
        with ExitStack() as stack:
            spools = [self._open(blob, stack) for blob in self._blobs]
            pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="layer")
            stack.callback(pool.shutdown, cancel_futures=True)
            stack.push(self._stop_on_error)
            for spool in spools:
                pool.submit(spool.fill)
            tree = self._merge(spools)
            return self._write(tree), _warnings(tree)

    def _open(self, blob: Blob, stack: ExitStack) -> Spool:
        with explain_no_space("decompressing a layer", self._staging):
            spool = Spool(blob, self._staging, self.budget)
        stack.callback(spool.close)
        return spool

    def _stop_on_error(self, kind: type[BaseException] | None, *_: object) -> None:
        """Before the threads are waited for."""
        if kind is not None:
            self.budget.stopped.set()

    def _merge(self, spools: Sequence[Spool]) -> Tree:
        limits = self.budget.limits
        tree = Tree(limits)
        for blob, spool in zip(self._blobs, spools, strict=True):
            with _named(blob):
                tree.apply(read_entries(spool, limits), spool.fd, whiteouts=self._whiteouts, check=self.budget.check)
        for blob, spool in zip(self._blobs, spools, strict=True):
            with _named(blob):
                spool.wait()
        tree.check_base()
        if not self._whiteouts and not tree.entries:
            raise BadArchive("the archive is empty")
        return tree

    def _write(self, tree: Tree) -> Flattened:
        with explain_no_space("writing the file system", self._destination.parent):
            written = write_image(self._destination, tree.root, label=LABEL, tick=self._tick)
        return Flattened(size_bytes=written.size_bytes, entries=tree.entries, content_bytes=written.content_bytes, digest=written.digest)

    def _tick(self, done: int, total: int) -> None:
        self.budget.check()
        self._progress.on_copied(done, total)


@contextlib.contextmanager
def _named(blob: Blob) -> Iterator[None]:
    """Errors that say which layer or file is meant."""
    try:
        yield
    except BadArchive as error:
        raise BadArchive(f"{blob.name}: {error.message}", hint=error.hint) from error


def _warnings(tree: Tree) -> list[str]:
    names = sorted(name.decode(errors="backslashreplace") for name in tree.dropped_xattrs)
    return [f"extended attributes that ext4 has no place for were left out: {', '.join(map(repr, names[:5]))}"] if names else []
