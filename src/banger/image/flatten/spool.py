"""Layers as uncompressed files without a name, filled by threads while the headers in them are already being read."""

from __future__ import annotations

import hashlib
import os
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ...host.files import STAGING_SUFFIX, explain_no_space
from ...model.errors import Cancelled
from ...model.sizes import format_size
from .decompress import Format, decompress
from .limits import BadArchive, Limits

_INPUT: Final = 256 * 1024
_PLAIN_INPUT: Final = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """What is to be decompressed, and what it must be; "" = that is not known."""

    path: Path
    compression: Format
    digest: str = ""
    diff_id: str = ""
    name: str = ""
    """What it is called in messages."""


class Budget:
    """What all layers of an image share: the limits, the bytes left, whether to stop. ``on_read`` hears, in any thread, of bytes of blobs that were read."""

    def __init__(self, limits: Limits, on_read: Callable[[int], None] = lambda size: None) -> None:
        self.limits = limits
        self.on_read = on_read
        self.stopped = threading.Event()
        self.total = 0
        self._lock = threading.Lock()

    def check(self) -> None:
        """Raises Cancelled when nobody wants the result any more."""
        if self.stopped.is_set():
            raise Cancelled("flattening was cancelled")

    def take(self, layer: int, packed: int, size: int) -> None:
        """Account for ``size`` more bytes of a layer that has ``layer`` now, from ``packed`` read. Raises BadArchive, Cancelled."""
        self.check()
        limits = self.limits
        with self._lock:
            self.total += size
            total = self.total
        if layer > limits.layer_bytes or total > limits.total_bytes:
            limit = format_size(limits.layer_bytes if layer > limits.layer_bytes else limits.total_bytes)
            raise BadArchive(f"the {'layer' if layer > limits.layer_bytes else 'image'} is larger than we take ({limit} uncompressed)")
        if layer > limits.ratio_free_bytes and layer > packed * limits.ratio:
            raise BadArchive(f"a layer of {format_size(layer)} in {format_size(packed)} looks like a decompression bomb")


class Spool:
    """One uncompressed layer. ``fill`` runs in one thread, everything else in another; ``close`` when both are done."""

    def __init__(self, blob: Blob, staging: Path, budget: Budget) -> None:
        self._blob = blob
        self._staging = staging
        self._budget = budget
        self._blob_hash = hashlib.sha256()
        self._tar_hash = hashlib.sha256()
        self._packed = 0
        self._changed = threading.Condition()
        self._available = 0
        self._finished = False
        self._error: BaseException | None = None
        plain = blob.compression == "none"
        self.fd = os.open(blob.path, os.O_RDONLY | os.O_CLOEXEC) if plain else _nameless_file(staging)

    def fill(self) -> None:
        """Decompress, check and hash everything. Never raises: the reader does."""
        error: BaseException | None = None
        try:
            with explain_no_space("decompressing a layer", self._staging):
                self._decompress()
            self._verify()
        except BaseException as caught:  # noqa: BLE001 - raised again in the thread that reads
            error = caught
        with self._changed:
            self._finished, self._error = True, error
            self._changed.notify()

    def read(self, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes at ``offset``, at least 512 unless the layer ends there; waits for them. Raises what went wrong with the layer."""
        if offset + 512 > self._available:
            with self._changed:
                self._changed.wait_for(lambda: self._finished or self._available >= offset + 512)
            if self._error is not None:
                raise self._error
        self._budget.check()
        return os.pread(self.fd, max(0, min(size, self._available - offset)), offset)

    def wait(self) -> None:
        """Until all is there and verified. Raises what went wrong with the layer."""
        with self._changed:
            self._changed.wait_for(lambda: self._finished)
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Give the space back."""
        os.close(self.fd)

    def _decompress(self) -> None:
        plain = self._blob.compression == "none"
        with self._blob.path.open("rb", buffering=0) as file:
            for piece in decompress(self._chunks(file.fileno(), _PLAIN_INPUT if plain else _INPUT), self._blob.compression):
                end = self._available + len(piece)
                self._budget.take(end, self._packed, len(piece))
                self._tar_hash.update(piece)
                if not plain:
                    _write(self.fd, piece)
                with self._changed:
                    self._available = end
                    self._changed.notify()

    def _chunks(self, fd: int, size: int) -> Iterator[bytes]:
        checked = bool(self._blob.digest) and self._blob.compression != "none"
        while chunk := os.read(fd, size):
            if checked:
                self._blob_hash.update(chunk)
            self._packed += len(chunk)
            self._budget.on_read(len(chunk))
            yield chunk

    def _verify(self) -> None:
        blob = self._blob
        found = "sha256:" + self._tar_hash.hexdigest()
        packed = found if blob.compression == "none" else "sha256:" + self._blob_hash.hexdigest()
        if blob.digest and packed != blob.digest:
            raise BadArchive(f"a layer is damaged: its digest is {packed}, not {blob.digest}", hint="pull the image again")
        if blob.diff_id and found != blob.diff_id:
            raise BadArchive(f"a layer is not what the image says: its content is {found}, not {blob.diff_id}", hint="the image itself is wrong: ask its maker")


def _write(fd: int, piece: bytes) -> None:
    view = memoryview(piece)
    while view:
        view = view[os.write(fd, view) :]


def _nameless_file(staging: Path) -> int:
    """A file that is gone when it is closed, however we end."""
    path = staging / f"layer-{secrets.token_hex(8)}{STAGING_SUFFIX}"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with suppress(FileNotFoundError):
        path.unlink()
    return fd
