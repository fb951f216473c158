"""Taps kept ready for machines to come, so that connecting one costs next to nothing. Filled and emptied behind everybody's back."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Iterable
from itertools import islice
from typing import Final

from ..helper.protocol import NetworkOps
from ..model.errors import BangerError, NoSpace
from ..model.network import NetworkPlan

log = logging.getLogger(__name__)

SETTLE_SECONDS: Final = 1.0
"""What is released stays that long at least: a machine that is started again finds its tap."""
_AT_ONCE: Final = 64


class TapPool:
    """Warm taps: of ``size`` free slots, once it has come to rest; until then also of machines that have just ended."""

    def __init__(self, ops: NetworkOps, plan: NetworkPlan, size: int, used: Callable[[], Collection[str]]) -> None:
        """``used``: addresses that belong to machines, running or not."""
        self._ops = ops
        self._plan = plan
        self._size = size
        self._used = used
        self._warm: set[int] = set()
        self._moving: set[int] = set()
        """Slots whose taps are being made or removed right now."""
        self._moved = asyncio.Event()
        self._due = False
        self._settling: asyncio.Task[None] | None = None

    @property
    def slots(self) -> frozenset[int]:
        """Slots of the taps that the pool has, makes or removes."""
        return frozenset(self._warm | self._moving)

    def free_slot(self, used: Collection[str]) -> int:
        """The lowest slot of a warm tap, else the lowest of all, whose address is none of these. Raises NoSpace."""
        taken = slots_of(self._plan, used)
        slot = next((slot for slots in (sorted(self._warm - self._moving), self._plan.slots) for slot in slots if slot not in taken), None)
        if slot is None:
            raise NoSpace(
                f"all {len(self._plan.slots)} addresses of {self._plan.subnet} belong to machines",
                hint="delete machines (banger vm prune), or choose a larger subnet in [network] of config.toml",
            )
        return slot

    async def take(self, slot: int) -> None:
        """The slot is a machine's from now on; waits for what the pool does with its tap at this moment."""
        while slot in self._moving:
            await self._moved.wait()
        self._warm.discard(slot)

    def give(self, slots: Iterable[int]) -> None:
        """These taps are complete and nobody's any more."""
        self._warm.update(slots)
        self.settle_soon()

    def settle_soon(self) -> None:
        """Bring the pool to its size in the background."""
        self._due = True
        if self._settling is None or self._settling.done():
            self._settling = asyncio.create_task(self._settle(), name="settle the pool of taps")

    async def close(self) -> None:
        """Begin nothing more. What is half done is found by the next daemon."""
        if self._settling is not None:
            self._settling.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._settling

    async def _settle(self) -> None:
        while self._due:
            await asyncio.sleep(SETTLE_SECONDS)
            self._due = False
            try:
                await self.settle()
            except BangerError as error:
                log.warning("the pool of taps could not be settled", extra={"error": error.message})

    async def settle(self) -> None:
        """Remove what is too much, make what is missing; one round."""
        taken = slots_of(self._plan, self._used())
        kept = sorted(self._warm - taken)[: self._size]
        surplus = sorted(self._warm.difference(kept))
        fresh = list(islice((slot for slot in self._plan.slots if slot not in taken and slot not in self._warm), self._size - len(kept)))
        self._warm.intersection_update(kept)
        self._moving.update(surplus, fresh)
        self._moved.clear()
        try:
            if surplus:
                await self._ops.release_taps(surplus, keep=False)
            for first in range(0, len(fresh), _AT_ONCE):
                await self._ops.warm_taps(fresh[first : first + _AT_ONCE])
                self._warm.update(fresh[first : first + _AT_ONCE])
        finally:
            self._moving.clear()
            self._moved.set()


def slots_of(plan: NetworkPlan, addresses: Iterable[str]) -> frozenset[int]:
    """Slots of these addresses; one of another subnet, of before it was changed, takes none."""
    found = set()
    for address in addresses:
        with contextlib.suppress(BangerError):
            found.add(plan.slot_of(address))
    return frozenset(found)
