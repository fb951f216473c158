"""Machines that the host's boot has ended, and that shall run again after it (``--autostart``): the first daemon after a boot starts them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

from ..host import facts
from ..host.files import write_atomically
from ..model.errors import BangerError
from ..model.opid import current_op_id, new_op_id
from ..model.progress import Report
from ..model.records import VMRecord
from .autostop import CarryOut

log = logging.getLogger(__name__)

AT_ONCE: Final = 2
"""So many boot at the same time: each keeps a CPU busy, and the host itself has just begun."""

Start = Callable[[str, Report], Awaitable[object]]
"""Starts the machine of this id; success when it runs already."""


class Autostart:
    """A capability that acts when the daemon starts: once per boot of the host, for all machines that ask for it, behind the daemon's back."""

    name = "autostart"

    def __init__(self, note: Path, *, start: Start, carry_out: CarryOut) -> None:
        """``note``: file with the boot id for which this has been done."""
        self._note, self._start, self._carry_out = note, start, carry_out
        self._task: asyncio.Task[None] | None = None

    async def resume(self, records: Sequence[VMRecord]) -> None:
        """Begin to start machines when this is the first daemon since the host's boot."""
        if self._noted() == facts.boot_id():
            return
        chosen = [record for record in records if record.spec.autostart]
        self._task = asyncio.create_task(self._run(chosen), name="autostart")

    async def close(self) -> None:
        """End; what has not been started yet is left to the next daemon."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def _noted(self) -> str:
        try:
            return self._note.read_text(errors="replace").strip()
        except OSError:
            return ""

    async def _run(self, chosen: Sequence[VMRecord]) -> None:
        turns = asyncio.Semaphore(AT_ONCE)
        await asyncio.gather(*(self._start_one(record, turns) for record in chosen))
        try:
            write_atomically(self._note, facts.boot_id().encode())
        except OSError as error:  # a full disk: the next daemon looks again, and what runs is left alone
            log.warning("the boot could not be noted", extra={"file": str(self._note), "error": str(error)})

    async def _start_one(self, record: VMRecord, turns: asyncio.Semaphore) -> None:
        async with turns:
            current_op_id.set(new_op_id())
            labels = {"vm_id": record.id, "vm_name": record.name}
            log.info("starting after the host's boot", extra=labels)
            try:
                await self._carry_out("vm.autostart", record.name, lambda report: self._start(record.id, report))
            except (BangerError, ExceptionGroup) as error:
                log.warning("a machine could not be started after the host's boot", extra={**labels, "error": str(error)})
