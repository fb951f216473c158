"""The bridge network over privileged verbs that change nothing but files: they outlive daemons, as bridges do."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from banger.daemon.host_network import HostNetworking
from banger.model.errors import CommandFailed
from banger.model.network import NetworkPlan, NetworkState, Traffic, network_plan
from banger.net.bridge import BridgeNetwork
from banger.store import Database, VMTable
from banger.vm.nat import Nat

PLAN = network_plan("fake0", "172.31.99.0/28")
POOL = 2


@dataclass
class FakeNetworkOps:
    """Implements helper.protocol.NetworkOps: ``bridge``, ``taps/SLOT`` (``SLOT.half`` while it is made) and ``nat/ADDRESS`` below ``directory``."""

    directory: Path
    plan: NetworkPlan = PLAN
    calls: list[str] = field(default_factory=list)
    broken: str = ""
    """What every call complains of."""
    warnings: tuple[str, ...] = ()

    async def ensure_network(self) -> NetworkState:
        await self._note("ensure")
        repaired = () if self._bridge.exists() else ("the bridge", "the table inet fake0")
        for directory in (self._taps, self._nat):
            directory.mkdir(parents=True, exist_ok=True)
        self._bridge.touch()
        return self.state(repaired)

    async def inspect_network(self) -> NetworkState:
        await self._note("inspect")
        return self.state(())

    def state(self, repaired: tuple[str, ...]) -> NetworkState:
        """What the files say."""
        traffic = Traffic(sent_packets=1, sent_bytes=100, received_packets=2, received_bytes=2048)
        return NetworkState(taps=tuple(sorted(self.taps())), nat=dict.fromkeys(self.nat(), traffic), repaired=repaired, warnings=self.warnings)

    async def warm_taps(self, slots: Sequence[int]) -> None:
        await self._note(f"warm {list(slots)}")
        for slot in slots:
            await self._make(slot)

    async def attach_tap(self, vm_id: str, slot: int, *, nat: bool) -> None:
        await self._note(f"attach {slot}{' nat' if nat else ''}")
        await self._make(slot)
        self._switch(str(self.plan.address(slot)), nat=nat)

    async def release_taps(self, slots: Sequence[int], *, keep: bool) -> None:
        await self._note(f"release {list(slots)}{' keep' if keep else ''}")
        for slot in slots:
            self._switch(str(self.plan.address(slot)), nat=False)
            (self._taps / f"{slot}.half").unlink(missing_ok=True)
            await asyncio.sleep(0)
            if not keep:
                (self._taps / str(slot)).unlink(missing_ok=True)

    async def set_nat(self, addresses: Mapping[str, bool]) -> None:
        await self._note(f"nat {dict(addresses)}")
        self._require_network()
        for address, nat in addresses.items():
            self.plan.slot_of(address)
            self._switch(address, nat=nat)

    async def remove_network(self) -> None:
        await self._note("remove")
        self.flush()
        for path in self._taps.glob("*"):
            path.unlink()

    def flush(self) -> None:
        """Somebody removes the bridge and all rules; taps stay."""
        self._bridge.unlink(missing_ok=True)
        for path in self._nat.glob("*"):
            path.unlink()

    def taps(self) -> set[int]:
        """Slots with a tap, whole or half."""
        return {int(path.name.removesuffix(".half")) for path in self._taps.glob("*")}

    def half_made(self) -> set[str]:
        return {path.name for path in self._taps.glob("*.half")}

    def nat(self) -> set[str]:
        """Addresses that may go out."""
        return {path.name for path in self._nat.glob("*")}

    @property
    def _bridge(self) -> Path:
        return self.directory / "bridge"

    @property
    def _taps(self) -> Path:
        return self.directory / "taps"

    @property
    def _nat(self) -> Path:
        return self.directory / "nat"

    async def _note(self, call: str) -> None:
        self.calls.append(call)
        await asyncio.sleep(0)
        if self.broken:
            raise CommandFailed(self.broken)

    def _require_network(self) -> None:
        if not self._bridge.exists():
            raise CommandFailed("there is no bridge fake0")

    async def _make(self, slot: int) -> None:
        self._require_network()
        self.plan.slots.index(slot)
        whole, half = self._taps / str(slot), self._taps / f"{slot}.half"
        if not whole.exists():
            half.touch()
            await asyncio.sleep(0)
            half.rename(whole)

    def _switch(self, address: str, *, nat: bool) -> None:
        if nat:
            (self._nat / address).touch()
        else:
            (self._nat / address).unlink(missing_ok=True)


def fake_bridge(directory: Path, database: Database) -> HostNetworking:
    """A bridge network over such files."""
    rows = VMTable(database)

    def note(address: str, kind: str, message: str) -> None:
        database.events.append(kind, next(record.id for record in rows.list() if record.runtime.address == address), operation="network", message=message)

    driver = BridgeNetwork(FakeNetworkOps(directory), PLAN, rows, pool_size=POOL, note=note)
    return HostNetworking(driver=driver, capabilities=(Nat(driver),))


def broken_promises(directory: Path, rows: Sequence[Mapping[str, object]]) -> list[str]:
    """Where taps and NAT differ from what the rows of the machines say; ``rows`` are those of the table."""
    ops = FakeNetworkOps(directory)
    running = {str(row["address"]): '"nat":true' in str(row["spec"]).replace(" ", "") for row in rows if row["state"] == "running"}
    slots = {PLAN.slot_of(address) for address in running}
    wrong = [f"row of {row['name']} ({row['state']}) names the tap {row['tap']}" for row in rows if (row["tap"] is None) is (row["state"] == "running")]
    wrong += [f"half-made tap {name}" for name in sorted(ops.half_made())]
    wrong += [f"no tap of slot {slot}" for slot in sorted(slots - ops.taps())]
    if len(spare := ops.taps() - slots) > POOL:
        wrong.append(f"more taps than the pool holds: {sorted(spare)}")
    if ops.nat() != (out := {address for address, nat in running.items() if nat}):
        wrong.append(f"out may go {sorted(ops.nat())}, the rows say {sorted(out)}")
    return wrong
