"""One command ending what another one does with a machine: the work is cancelled, and fails with the reason."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from ..model.errors import VmmError

Result = TypeVar("Result")


class Interrupts:
    """Who works on which machine in a way that may be ended, and who wants to end it.

    Work that begins while somebody wants the machine at once fails at once: it only stood before that somebody in the queue for the machine.
    """

    def __init__(self) -> None:
        self._working: dict[str, asyncio.Task[Any]] = {}
        self._wanted: dict[str, list[str]] = {}
        self._ended: dict[asyncio.Task[Any], str] = {}

    @contextmanager
    def pending(self, vm_id: str, reason: str) -> Iterator[None]:
        """End what runs for the machine, and whatever begins until the context is left, with a VmmError that says ``reason``."""
        self._wanted.setdefault(vm_id, []).append(reason)
        task = self._working.get(vm_id)
        if task is not None and task not in self._ended:
            self._ended[task] = reason
            task.cancel()
        try:
            yield
        finally:
            self._wanted[vm_id].remove(reason)
            if not self._wanted[vm_id]:
                del self._wanted[vm_id]

    async def run(self, vm_id: str, work: Coroutine[Any, Any, Result]) -> Result:
        """The result of ``work``, which ``pending`` may end. A cancellation of the caller is passed on to it, and waited for."""
        if reasons := self._wanted.get(vm_id):
            work.close()
            raise VmmError(reasons[0])
        task = asyncio.create_task(work)
        self._working[vm_id] = task
        try:
            while not task.done():
                try:
                    await asyncio.wait((task,))
                except asyncio.CancelledError:
                    task.cancel()
            if task.cancelled() and task in self._ended:
                raise VmmError(self._ended[task])
            return task.result()
        finally:
            del self._working[vm_id]
            self._ended.pop(task, None)

    def cause(self, error: BaseException) -> BaseException:
        """Inside ``work``: what ``error`` comes from, which for the cancellation by ``pending`` is its reason."""
        task = asyncio.current_task()
        if isinstance(error, asyncio.CancelledError) and task in self._ended:
            return VmmError(self._ended[task])
        return error
