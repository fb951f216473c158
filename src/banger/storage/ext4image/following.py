"""Hashing a file while it is written from front to back."""

from __future__ import annotations

import hashlib
import os
import threading
from types import TracebackType
from typing import Final, Self

_CHUNK: Final = 1024 * 1024


class FollowingHash:
    """SHA-256 of a file in a thread of its own, which reads up to where the writer says it has been. A context manager, so that the thread always ends."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._hash = hashlib.sha256()
        self._changed = threading.Condition()
        self._written = 0
        self._ended = False
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._follow, name="image-digest", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None:
            with self._changed:
                self._written = 0
        self._end()

    def advance(self, written: int) -> None:
        """All before this offset has its final content."""
        if written >= self._written + _CHUNK:
            with self._changed:
                self._written = written
                self._changed.notify()

    def finish(self, size: int) -> str:
        """``sha256:<hex>`` of the file's ``size`` bytes. Raises OSError."""
        with self._changed:
            self._written = size
        self._end()
        if self._error is not None:
            raise self._error
        return "sha256:" + self._hash.hexdigest()

    def _end(self) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify()
        self._thread.join()

    def _follow(self) -> None:
        done = 0
        buffer = memoryview(bytearray(_CHUNK))
        try:
            while size := self._next_size(done):
                got = os.preadv(self._fd, [buffer[:size]], done)
                self._hash.update(buffer[:got])
                done += got
        except OSError as error:
            self._error = error

    def _next_size(self, done: int) -> int:
        with self._changed:
            self._changed.wait_for(lambda: self._ended or self._written >= done + _CHUNK)
            return max(0, min(_CHUNK, self._written - done))
