"""The capability of having what the user has on the host: the files of ``[[file_sync]]``, and git's identity."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from ..access.file_sync import read_files
from ..access.git_identity import deliver, gitconfig, host_identity
from ..guest.agent import Agent, FileToWrite
from ..model.config import FileSync
from ..model.errors import GuestError
from ..model.records import VMRecord
from .capabilities import GuestPart

log = logging.getLogger(__name__)


class HostFiles:
    """Reads while the machine boots. Files replace the guest's at each start; git's identity only what is not somebody's own."""

    name = "host-files"

    def __init__(self, entries: Sequence[FileSync]) -> None:
        self._entries = entries
        self._reading: dict[str, asyncio.Task[tuple[FileToWrite, ...]]] = {}
        self._identities: dict[str, asyncio.Task[dict[str, str]]] = {}

    async def prepare_host(self, record: VMRecord) -> None:
        self._reading[record.id] = asyncio.create_task(self._read(), name=f"file_sync for {record.id}")
        self._identities[record.id] = asyncio.create_task(host_identity(), name=f"git identity for {record.id}")

    async def contribute_guest(self, record: VMRecord) -> GuestPart:
        reading = self._reading.pop(record.id, None)
        return GuestPart(files=await (reading if reading is not None else self._read()))

    async def post_start(self, record: VMRecord, agent: Agent) -> None:
        """An identity that cannot be delivered is no reason to end the machine."""
        asking = self._identities.pop(record.id, None)
        identity = await (asking if asking is not None else host_identity())
        if not identity or _brings_gitconfig(self._entries):
            return
        try:
            await deliver(agent, gitconfig(identity))
        except GuestError as error:
            log.warning("git's identity was not delivered", extra={"vm_id": record.id, "error": error.message})

    async def clean_up(self, vm_id: str) -> None:
        tasks = [task for task in (self._reading.pop(vm_id, None), self._identities.pop(vm_id, None)) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self) -> tuple[FileToWrite, ...]:
        if not self._entries:
            return ()
        return await asyncio.to_thread(read_files, self._entries, Path(os.environ.get("HOME") or Path.home()))


def _brings_gitconfig(entries: Sequence[FileSync]) -> bool:
    return any(entry.guest == "/root/.gitconfig" for entry in entries)
