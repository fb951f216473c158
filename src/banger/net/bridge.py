"""The bridge network: every machine has a card on one bridge of the host, with an address of its own; ``--nat`` decides whether that address may go out.

What needs privileges is done by NetworkOps. Which machine has which tap is in the machines' rows; nothing here knows more than they do, but for the pool.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Final, Protocol

from ..helper.protocol import NetworkOps
from ..host.paths import VMLayout
from ..model.errors import BadRequest, BangerError
from ..model.machine import NetworkCard
from ..model.network import NetworkPlan, NetworkState, Traffic
from .pool import TapPool, slots_of
from .protocol import Attachment, NetworkPlace

log = logging.getLogger(__name__)

WATCH_SECONDS: Final = 10.0
"""How often it is made sure that everything is still there, while machines are on the bridge."""

Note = Callable[[str, str, str], None]
"""Tells of the machine with an address that something happened to it: address, kind of the event, message."""


class Rows(Protocol):
    """What the rows of all machines say."""

    def used_addresses(self) -> Collection[str]:
        """Addresses of all machines."""

    def attached(self) -> Mapping[str, bool]:
        """Addresses of those that have a tap, or are about to; True for those that may go out."""


class BridgeNetwork:
    """The bridge of an instance. Also AssignsPlaces, SwitchesNat and ListsTaps.

    The bridge is made by the first who needs it, and looked after every ``WATCH_SECONDS`` while machines are on it; nothing is polled else.
    """

    def __init__(
        self, ops: NetworkOps, plan: NetworkPlan, rows: Rows, *, pool_size: int, note: Note, on_close: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """``on_close`` is the last thing that is done."""
        self._ops = ops
        self._plan = plan
        self._rows = rows
        self._note = note
        self._on_close = on_close
        self._pool = TapPool(ops, plan, pool_size, rows.used_addresses)
        self._ensuring = asyncio.Lock()
        self._ensured = False
        self._turn = asyncio.Lock()
        """Held from a look at the rows until the host agrees with it: who changes both changes the row right after this is released, and awaits nothing."""
        self._watcher: asyncio.Task[None] | None = None
        self._complaint = ""
        self._missing: frozenset[int] = frozenset()
        """Slots of machines whose tap was not there at the last look."""
        self._lost: frozenset[int] = frozenset()
        """Those that somebody has been told of."""

    # -- Network ---------------------------------------------------------------------------------------------------------------------------------

    async def attach(self, vm_id: str, files: VMLayout, place: NetworkPlace, *, nat: bool, uid: int) -> Attachment:
        """Have the place's tap ready. Its row must name it already. Raises BadRequest, CommandFailed, MissingTool, HelperUnreachable."""
        slot = self._plan.slot_of(place.address)
        await self._pool.take(slot)
        await self._act(lambda: self._ops.attach_tap(vm_id, slot, nat=nat), newcomer=place.address)
        self._pool.settle_soon()
        self._keep_watch()
        return Attachment(mode="bridge", card=self._card(slot), helper=None)

    async def detach(self, vm_id: str, files: VMLayout, place: NetworkPlace) -> None:
        """The tap goes to the pool, which removes it later if it has enough; its address goes out no more."""
        slot = self._slot(place)
        if slot is None:
            return
        async with self._turn:
            await self._ops.release_taps([slot], keep=True)
        self._pool.give([slot])

    # -- AssignsPlaces ---------------------------------------------------------------------------------------------------------------------------

    def free_address(self, used: Collection[str]) -> str:
        return str(self._plan.address(self._pool.free_slot(used)))

    def place_at(self, address: str) -> NetworkPlace:
        return NetworkPlace(address=address, tap=self._plan.tap(self._plan.slot_of(address)))

    # -- SwitchesNat -----------------------------------------------------------------------------------------------------------------------------

    async def set_nat(self, place: NetworkPlace, *, nat: bool) -> None:
        await self._act(lambda: self._ops.set_nat({place.address: nat}))

    async def traffic(self) -> Mapping[str, Traffic]:
        return (await self._ops.inspect_network()).nat

    async def check(self) -> tuple[str, ...]:
        return (await self._ops.inspect_network()).warnings

    async def resume(self) -> None:
        """Taps of no machine go to the pool, exactly those let out go out. A host that refuses is told in the log, and to who attaches."""
        try:
            await self._look_after()
            async with self._turn:
                await self._reconcile(await self._ops.inspect_network())
        except BangerError as error:
            log.warning("the machines' network cannot be made now", extra={"bridge": self._plan.bridge, "error": error.message})
        if self._attached():
            self._keep_watch()
        self._pool.settle_soon()

    async def close(self) -> None:
        """End what runs in the background, then ``on_close``."""
        if self._watcher is not None:
            self._watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watcher
        await self._pool.close()
        if self._on_close is not None:
            await self._on_close()

    # -- ListsTaps -------------------------------------------------------------------------------------------------------------------------------

    async def stray_taps(self) -> tuple[str, ...]:
        state = await self._ops.inspect_network()
        known = slots_of(self._plan, self._attached()) | self._pool.slots
        return tuple(self._plan.tap(slot) for slot in state.taps if slot not in known)

    async def remove_tap(self, name: str) -> None:
        slot = self._plan.slot_of_tap(name)
        if slot is None or str(self._plan.address(slot)) in self._attached():
            raise BadRequest(f"{name} belongs to a machine, or is not ours")
        await self._ops.release_taps([slot], keep=False)

    # ----------------------------------------------------------------------------------------------------------------------------------------------

    def _slot(self, place: NetworkPlace) -> int | None:
        """The slot of a machine that has, or may have, a tap; None for one that has none, or one of another bridge."""
        if not place.tap:
            return None
        slot = self._plan.slot_of_tap(place.tap)
        if slot is None:
            log.warning("a tap of another bridge is left alone", extra={"tap": place.tap, "bridge": self._plan.bridge})
        return slot

    def _card(self, slot: int) -> NetworkCard:
        plan, gateway = self._plan, str(self._plan.gateway)
        return NetworkCard(
            mac=plan.mac(slot),
            address=str(plan.address(slot)),
            prefix=plan.subnet.prefixlen,
            gateway=gateway,
            nameservers=(gateway,),
            socket=None,
            tap=plan.tap(slot),
        )

    def _attached(self) -> dict[str, bool]:
        """Machines on this bridge. One that runs on another, of before the settings were changed, is none of ours."""
        return {address: nat for address, nat in self._rows.attached().items() if slots_of(self._plan, (address,))}

    async def _act(self, work: Callable[[], Awaitable[None]], *, newcomer: str = "") -> None:
        """Do this with the network there. When it fails, what may be broken is repaired, and it is tried once more."""
        async with self._ensuring:
            if not self._ensured:
                await self._look_after(newcomer=newcomer)
        try:
            async with self._turn:
                await work()
        except BangerError as error:
            log.warning("the bridge refused, it is looked after", extra={"bridge": self._plan.bridge, "error": error.message})
            await self._look_after(newcomer=newcomer)
            async with self._turn:
                await work()

    async def _look_after(self, *, newcomer: str = "") -> NetworkState:
        """Make sure that all is there. What was made again gets its NAT back, and the machines that were on the bridge are told of it."""
        state = await self._ops.ensure_network()
        self._ensured = True
        if not state.repaired:
            return state
        async with self._turn:
            harmed = {address: nat for address, nat in self._attached().items() if address != newcomer}
            if harmed:
                await self._ops.set_nat(harmed)
        what = ", ".join(state.repaired)
        log.log(logging.WARNING if harmed else logging.INFO, "the machines' network was made", extra={"bridge": self._plan.bridge, "what": what})
        for address in harmed:
            self._note(address, "repaired", f"gone from the host's network, and made again: {what}")
        return state

    def _tell_missing(self, state: NetworkState) -> None:
        """A tap that was removed under a machine cannot be given back to it. One that is missing in two looks is not just being made."""
        missing = slots_of(self._plan, self._attached()).difference(state.taps)
        lost = (missing & self._missing) - self._lost
        self._missing, self._lost = missing, (self._lost | lost) & missing
        for slot in lost:
            name = self._plan.tap(slot)
            log.warning("a machine's tap was removed", extra={"tap": name})
            self._note(str(self._plan.address(slot)), "failure", f"somebody has removed its tap {name}: it has no network until it is restarted")

    async def _reconcile(self, state: NetworkState) -> None:
        attached = self._attached()
        out = {address for address, nat in attached.items() if nat}
        change = dict.fromkeys(out - set(state.nat), True) | dict.fromkeys(set(state.nat) - out, False)
        if change:
            await self._ops.set_nat(change)
        running = slots_of(self._plan, attached)
        if stray := [slot for slot in state.taps if slot not in running and slot not in self._pool.slots]:
            await self._ops.release_taps(stray, keep=True)
            self._pool.give(stray)

    def _keep_watch(self) -> None:
        if self._watcher is None or self._watcher.done():
            self._watcher = asyncio.create_task(self._watch(), name="watch the bridge")

    async def _watch(self) -> None:
        while self._attached():
            await asyncio.sleep(WATCH_SECONDS)
            try:
                self._tell_missing(await self._look_after())
                self._complaint = ""
            except BangerError as error:
                if error.message != self._complaint:  # it may last, and would fill the log
                    log.warning("the machines' network is broken", extra={"bridge": self._plan.bridge, "error": error.message})
                self._complaint = error.message
