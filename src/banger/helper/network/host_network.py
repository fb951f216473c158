"""``NetworkOps`` on this host: links by netlink, so that a tap costs no process; rules by nft, in one transaction for each change."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from ipaddress import IPv4Network, collapse_addresses
from typing import Final

from ...host.links import Link, Links
from ...host.netlink import Netlink
from ...host.run import find_tool
from ...host.tap import open_device
from ...host.threads import run_to_end
from ...model.errors import BadRequest, BangerError, CommandFailed, MissingTool
from ...model.network import NetworkPlan, NetworkState, Traffic
from . import firewall, foreign, ruleset, sysctl
from .bridge import OURS, OURS_FORWARDING, ensure_bridge, find_bridge, is_ours, is_usable
from .firewall import Firewall
from .nat import NatSets
from .neighbours import conflict, neighbours, refuse_conflict
from .taps import delete_links, is_ready, ready_tap, taps_of

log = logging.getLogger(__name__)

_MOST_WARM: Final = 64
_NOTHING: Final = Traffic(sent_packets=0, sent_bytes=0, received_packets=0, received_bytes=0)


class HostNetwork:
    """The bridge's network of one plan. Holds nothing but what it may forget; several calls may be under way at once, in one event loop."""

    def __init__(self, plan: NetworkPlan, *, reachable: Sequence[str] = (), tap_owner: int | None = None) -> None:
        """``reachable`` are IPv4 networks that guests with NAT may reach although the host is in them; ``tap_owner`` may open the taps (default: this uid)."""
        self._plan = plan
        self._reachable = frozenset(collapse_addresses(IPv4Network(network) for network in reachable))
        self._owner = os.getuid() if tap_owner is None else tap_owner
        self._nat = NatSets(plan)
        self._ensuring = asyncio.Lock()
        self._repairing = asyncio.Lock()
        self._deleting = asyncio.Lock()
        self._going: set[int] = set()
        self._ensured = False
        self._untold: list[str] = []
        self._forwarding_was_off = False

    async def ensure_network(self) -> NetworkState:
        """See ``NetworkOps``. When nothing was there and this process had not made it before, that is no repair."""
        async with self._ensuring:
            repaired, state = await self._ensure()
            self._ensured = True
            for what in repaired:
                log.warning("network repaired", extra={"what": what})
            told, self._untold = (*self._untold, *repaired), []
        return NetworkState(taps=state.taps, nat=state.nat, repaired=told, warnings=state.warnings)

    async def inspect_network(self) -> NetworkState:
        """See ``NetworkOps``. What is missing is a warning here."""
        seen = await firewall.read(self._plan)
        with _links() as links:
            bridge = find_bridge(links, self._plan)
            taps = taps_of(links.all(), self._plan)
            in_the_way = conflict(self._plan, bridge.index if bridge else 0, links.addresses(), links.routes())
        missing = [*(() if bridge is not None and bridge.up else ("the bridge",)), *seen.faults(self._plan), *(() if sysctl.forwards() else ("forwarding",))]
        missing += [f"the tap {tap.name}" for tap in taps.values() if bridge is not None and not is_ready(tap, bridge, self._owner)]
        tables = await foreign.read_foreign(seen, self._plan.bridge)
        warnings = (*(f"{what} is missing or not as it should be" for what in missing), *([in_the_way] if in_the_way else ()))
        return NetworkState(taps=tuple(sorted(taps)), nat=seen.nat, warnings=(*warnings, *foreign.warnings(tables, self._plan.bridge)))

    async def warm_taps(self, slots: Sequence[int]) -> None:
        """See ``NetworkOps``."""
        if len(slots) > _MOST_WARM:
            raise BadRequest(f"{len(slots)} taps are too many to be made at once; at most {_MOST_WARM}")
        self._check(slots)
        for slot in slots:
            await self._ready(slot)
            await asyncio.sleep(0)  # a machine that starts goes before the next

    async def attach_tap(self, vm_id: str, slot: int, *, nat: bool) -> None:
        """See ``NetworkOps``."""
        self._check([slot])
        await self._ready(slot)
        address = str(self._plan.address(slot))
        if nat or self._nat.may_have(address):
            await self.set_nat({address: nat})
        log.debug("tap attached", extra={"vm": vm_id, "tap": self._plan.tap(slot)})

    async def release_taps(self, slots: Sequence[int], *, keep: bool) -> None:
        """See ``NetworkOps``. Slots that the plan does not have are nobody's."""
        known = [slot for slot in slots if slot in self._plan.slots]
        await self._end_nat([address for address in (str(self._plan.address(slot)) for slot in known) if self._nat.may_have(address)])
        if not keep:
            await self._delete(known)

    async def set_nat(self, addresses: Mapping[str, bool]) -> None:
        """See ``NetworkOps``."""
        for address in addresses:
            self._plan.slot_of(address)
        try:
            await self._nat.change(addresses)
        except CommandFailed as error:
            if not firewall.is_gone(error):
                raise
            await self._repair()
            await self._nat.change(addresses)

    async def remove_network(self) -> None:
        """See ``NetworkOps``. What bears our names and is not ours stays; so does forwarding where Docker relies on it."""
        async with self._ensuring, self._nat.lock:
            seen = await firewall.read(self._plan)
            was_off = await self._remove_taps()
            tables = await foreign.read_foreign(seen, self._plan.bridge)
            await foreign.leave_docker(tables, self._plan.bridge)
            await self._remove_tables(seen)
            if was_off and not foreign.has_docker(tables):
                sysctl.set_forwarding(on=False)
            await self._remove_bridge()
            self._nat.saw(())
            self._ensured = self._forwarding_was_off = False

    async def _remove_taps(self) -> bool:
        """Remove the taps; returns whether we had turned forwarding on."""
        with _links() as links:
            bridge = links.find(self._plan.bridge)
            await run_to_end(delete_links, links, list(taps_of(links.all(), self._plan).values()))
        return self._forwarding_was_off or (bridge is not None and bridge.alias == OURS_FORWARDING)

    async def _remove_bridge(self) -> None:
        """Last of all, for it remembers what forwarding was: who ends before it leaves that to the next."""
        with _links() as links:
            bridge = links.find(self._plan.bridge)
            if bridge is not None and is_ours(bridge, self._plan):
                await run_to_end(delete_links, links, [bridge])

    async def _ensure(self) -> tuple[list[str], NetworkState]:
        find_tool("nft")
        os.close(open_device())
        with _links() as links:
            async with self._nat.lock:  # a member that comes between reading and writing would be lost
                seen = await firewall.read(self._plan)
                found = self._refuse_foreign(links, seen)
                index = found.index if found else 0
                routes = links.routes()
                repaired, nat = await self._ensure_tables(seen, neighbours(self._plan, index, routes))
            repaired += self._ensure_links(links, found)
            taps = taps_of(links.all(), self._plan)
            in_the_way = conflict(self._plan, index, links.addresses(), routes) if found else ""
        more, warnings = await self._settle_foreign(seen)
        warnings = ((in_the_way,) if in_the_way else ()) + warnings
        first = found is None and not self._ensured and not seen.has(self._plan)
        return [] if first else repaired + more, NetworkState(taps=tuple(sorted(taps)), nat=nat, warnings=warnings)

    def _refuse_foreign(self, links: Links, seen: Firewall) -> Link | None:
        """The bridge as it is found. Raises BadRequest when something of another's is in the way of making it."""
        seen.refuse_foreign(self._plan)
        found = find_bridge(links, self._plan)
        index = found.index if found else 0
        if not any(address.index == index and address.interface.ip == self._plan.gateway for address in links.addresses()):
            refuse_conflict(links, self._plan, index)
        return found

    async def _ensure_tables(self, seen: Firewall, closed: frozenset[IPv4Network]) -> tuple[list[str], Mapping[str, Traffic]]:
        """Before the links, so that no guest is ever without them."""
        networks = {ruleset.NEIGHBOURS: closed, ruleset.REACHABLE: self._reachable}
        faults, nat = seen.faults(self._plan), seen.nat
        if faults:
            nat = {address: _NOTHING for address in sorted(self._nat.members)} | dict(seen.nat)
            await firewall.apply(ruleset.tables(self._plan, closed, self._reachable, nat))
        elif changed := {name: wanted for name, wanted in networks.items() if seen.networks.get(name) != wanted}:
            await firewall.apply(ruleset.changed_networks(self._plan, changed))
        self._nat.saw(nat)
        return list(faults), nat

    def _ensure_links(self, links: Links, found: Link | None) -> list[str]:
        off = not sysctl.forwards()
        self._forwarding_was_off |= off or (found is not None and found.alias == OURS_FORWARDING)
        bridge, repaired = ensure_bridge(links, self._plan, found, OURS_FORWARDING if self._forwarding_was_off else OURS)
        if off:
            sysctl.set_forwarding(on=True)
            repaired.append("forwarding")
        for slot, tap in sorted(taps_of(links.all(), self._plan).items()):
            if slot not in self._going and not is_ready(tap, bridge, self._owner) and self._mended(links, bridge, slot):
                repaired.append(f"the tap {tap.name}")
        return repaired

    def _mended(self, links: Links, bridge: Link, slot: int) -> bool:
        try:
            return ready_tap(links, self._plan, bridge, slot, self._owner)
        except BangerError as error:
            log.warning("tap not repaired", extra={"tap": self._plan.tap(slot), "error": error.message})
            return False

    async def _settle_foreign(self, seen: Firewall) -> tuple[list[str], tuple[str, ...]]:
        tables = await foreign.read_foreign(seen, self._plan.bridge)
        try:
            joined = await foreign.join_docker(tables, self._plan.bridge)
        except (CommandFailed, MissingTool) as error:
            return [], (f"Docker drops what machines send, and its chain for exceptions could not be changed: {error.message}",)
        if joined:
            tables = await foreign.read_foreign(await firewall.read(self._plan), self._plan.bridge)
        return (["the rules in Docker's chain"] if joined and self._ensured else []), foreign.warnings(tables, self._plan.bridge)

    async def _remove_tables(self, seen: Firewall) -> None:
        try:
            seen.refuse_foreign(self._plan)
        except BadRequest as error:
            log.warning("table left alone", extra={"error": error.message})
            return
        if seen.has(self._plan):
            await firewall.apply(ruleset.no_tables(self._plan))

    async def _ready(self, slot: int) -> None:
        """The slot's tap as it should be. Makes or repairs the network when the bridge is missing."""
        if slot in self._going:
            async with self._deleting:
                pass
        if self._ready_now(slot):
            return
        async with self._repairing:  # one repairs for all that need it
            if not self._ready_now(slot):
                await self._repair()
        if not self._ready_now(slot):
            raise CommandFailed(f"the bridge {self._plan.bridge} went as soon as it was made")

    def _ready_now(self, slot: int) -> bool:
        with _links() as links:
            bridge = is_usable(links, self._plan)
            if bridge is not None:
                ready_tap(links, self._plan, bridge, slot, self._owner)
        return bridge is not None

    async def _repair(self) -> None:
        """Repair in the middle of another verb; the next ``ensure_network`` tells of it."""
        self._untold = list((await self.ensure_network()).repaired)

    async def _end_nat(self, addresses: Sequence[str]) -> None:
        if not addresses:
            return
        try:
            await self._nat.change(dict.fromkeys(addresses, False))
        except (CommandFailed, MissingTool) as error:
            if isinstance(error, CommandFailed) and firewall.is_gone(error):
                return
            # A machine must go all the same; the next one on the slot does not start before this is done.
            log.warning("NAT not ended", extra={"addresses": list(addresses), "error": error.message})

    async def _delete(self, slots: Sequence[int]) -> None:
        self._going.update(slots)
        try:
            async with self._deleting:
                with _links() as links:
                    found = [links.find(self._plan.tap(slot)) for slot in slots]
                    await run_to_end(delete_links, links, [tap for tap in found if tap is not None and tap.kind == "tun"])
        finally:
            self._going.difference_update(slots)

    def _check(self, slots: Sequence[int]) -> None:
        for slot in slots:
            if slot not in self._plan.slots:
                raise BadRequest(f"there is no slot {slot} in {self._plan.subnet}")


@contextmanager
def _links() -> Iterator[Links]:
    """Links by a netlink socket of one use. What the kernel refuses becomes CommandFailed."""
    try:
        with Netlink() as netlink:
            yield Links(netlink)
    except OSError as error:
        hint = "" if os.geteuid() == 0 else "this needs root: sudo banger system install"
        raise CommandFailed(f"the host's links cannot be read or changed: {error.strerror or error}", hint=hint) from error
