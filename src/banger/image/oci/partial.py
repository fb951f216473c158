"""A blob on its way into the cache: written and hashed in one go, bounded by the size it is to have."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable
from typing import BinaryIO, Final

from ...host.threads import finished, run_to_end
from ...model.errors import BangerError

_BLOCK: Final = 1024 * 1024


class Partial:
    """The beginning of a blob."""

    def __init__(self, file: BinaryIO, size: int, heard: Callable[[int], None]) -> None:
        self.size = size
        """Bytes that it is to have in the end."""
        self.offset = 0
        """Bytes that have come."""
        self._file = file
        self._heard = heard
        self._hash = hashlib.sha256()
        self._pending = bytearray()
        self._storing: asyncio.Task[None] | None = None
        """The block before ``_pending``, on its way to the disk while more bytes come."""

    def fileno(self) -> int:
        """Descriptor of the file."""
        return self._file.fileno()

    def digest(self) -> str:
        """``sha256:...`` of what is in the file."""
        return "sha256:" + self._hash.hexdigest()

    async def resume(self) -> None:
        """Go on after what an earlier run has left in the file."""
        if os.fstat(self.fileno()).st_size > self.size:
            await self.restart()
            return
        while block := await run_to_end(self._file.read, _BLOCK):
            await run_to_end(self._hash.update, block)
            self.offset += len(block)
        self._heard(self.offset)

    async def restart(self) -> None:
        """Forget what has come."""
        await self._settle()
        self._pending.clear()
        self._file.seek(0)
        self._file.truncate()
        self._hash = hashlib.sha256()
        self.offset = 0
        self._heard(0)

    async def write(self, untrusted: bytes) -> None:
        """Append; raises BangerError, and forgets everything, when it is more than the blob has."""
        if self.offset + len(untrusted) > self.size:
            await self.restart()
            raise BangerError(f"a blob is longer than the {self.size} bytes that the manifest says", hint="try again; something on the way changes it")
        self._pending += untrusted
        self.offset += len(untrusted)
        self._heard(self.offset)
        if len(self._pending) >= _BLOCK:
            await self._store_pending()

    async def flush(self) -> None:
        """Write what is kept in memory; afterwards nothing touches the file, however this ends."""
        try:
            await self._store_pending()
        finally:
            await self._settle()

    async def _store_pending(self) -> None:
        await self._settle()
        if self._pending:
            block, self._pending = self._pending, bytearray()
            self._storing = asyncio.create_task(asyncio.to_thread(self._store, block))

    async def _settle(self) -> None:
        """Wait until the block is stored. A thread cannot be stopped, so a cancellation waits too. Raises what storing raises."""
        storing, self._storing = self._storing, None
        if storing is not None:
            await finished(storing)

    def _store(self, block: bytearray) -> None:
        view = memoryview(block)
        while view:  # a raw file may take less than all, and at a full disk it does
            view = view[self._file.write(view) or 0 :]
        self._hash.update(block)
