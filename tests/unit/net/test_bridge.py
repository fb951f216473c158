"""The bridge network over privileged verbs that change nothing but files: places, warm taps, repair, and what a new daemon makes of what it finds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from banger.host.paths import VMLayout
from banger.model.errors import BadRequest, CommandFailed, NoSpace
from banger.model.network import network_plan
from banger.net import bridge, pool
from banger.net.bridge import BridgeNetwork
from banger.net.protocol import AssignsPlaces, ListsTaps, Network, NetworkPlace, SwitchesNat
from tests.fakes.bridge import PLAN, FakeNetworkOps

VM = "0" * 32
NOWHERE = VMLayout(Path("/nowhere"))


@dataclass
class Host:
    """One host; its daemons come and go."""

    ops: FakeNetworkOps
    pool_size: int = 2
    addresses: set[str] = field(default_factory=set)
    out: dict[str, bool] = field(default_factory=dict)
    """Rows that name a tap."""
    told: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.network = self.daemon()

    def daemon(self) -> BridgeNetwork:
        return BridgeNetwork(self.ops, self.ops.plan, self, pool_size=self.pool_size, note=lambda address, kind, _: self.told.append((address, kind)))

    def used_addresses(self) -> set[str]:
        return self.addresses

    def attached(self) -> dict[str, bool]:
        return dict(self.out)

    async def attach(self, *, nat: bool = False, address: str = "") -> NetworkPlace:
        """As a start does it: the row first."""
        place = self.network.place_at(address or self.network.free_address(self.addresses))
        self.addresses.add(place.address)
        self.out[place.address] = nat
        await self.network.attach(VM, NOWHERE, place, nat=nat, uid=-1)
        return place

    async def detach(self, place: NetworkPlace, *, delete: bool = True) -> None:
        await self.network.detach(VM, NOWHERE, place)
        del self.out[place.address]
        if delete:
            self.addresses.discard(place.address)


@pytest.fixture
async def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Host]:
    monkeypatch.setattr(pool, "SETTLE_SECONDS", 0.005)
    monkeypatch.setattr(bridge, "WATCH_SECONDS", 0.01)
    host = Host(FakeNetworkOps(tmp_path))
    yield host
    await host.network.close()


async def eventually(condition: Callable[[], object], what: str) -> None:
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError(f"still not: {what}")


async def test_it_has_the_abilities_that_its_users_ask_for(host: Host) -> None:
    network: Network = host.network
    assert isinstance(network, AssignsPlaces)
    assert isinstance(network, SwitchesNat)
    assert isinstance(network, ListsTaps)


async def test_a_card_on_a_tap_with_the_gateway_as_router_and_resolver(host: Host) -> None:
    place = host.network.place_at("172.31.99.5")
    host.out[place.address] = True
    attachment = await host.network.attach(VM, NOWHERE, place, nat=True, uid=-1)
    card = attachment.card
    assert card is not None
    assert (attachment.mode, card.tap, card.address, card.prefix, card.socket) == ("bridge", "fake0-5", "172.31.99.5", 28, None)
    assert (card.gateway, card.nameservers, card.mac) == ("172.31.99.1", ("172.31.99.1",), PLAN.mac(5))
    assert host.ops.nat() == {"172.31.99.5"}


async def test_the_lowest_free_address_but_a_warm_one_first(host: Host) -> None:
    assert host.network.free_address(set()) == "172.31.99.2"
    assert host.network.free_address({"172.31.99.2", "172.31.99.4", "10.0.0.9"}) == "172.31.99.3"
    await host.network.resume()
    await eventually(lambda: host.ops.taps() == {2, 3}, "the pool is full")
    first, second = await host.attach(), await host.attach()
    assert (first.tap, second.tap) == ("fake0-2", "fake0-3")
    await eventually(lambda: host.ops.taps() == {2, 3, 4, 5}, "the pool is filled again")
    await host.detach(first)
    assert host.network.free_address(host.addresses) == "172.31.99.2"


async def test_a_full_subnet_is_told(host: Host) -> None:
    everybody = {str(PLAN.address(slot)) for slot in PLAN.slots}
    with pytest.raises(NoSpace, match="all 13 addresses") as caught:
        host.network.free_address(everybody)
    assert "larger subnet" in caught.value.hint


async def test_an_address_of_another_subnet_has_no_place(host: Host) -> None:
    with pytest.raises(BadRequest, match="no machine's address"):
        host.network.place_at("10.1.2.3")


async def test_a_released_tap_is_kept_for_the_next_and_the_surplus_goes_later(host: Host) -> None:
    places = [await host.attach(nat=True) for _ in range(6)]
    for place in places:
        await host.detach(place)
    assert host.ops.nat() == set()
    await eventually(lambda: host.ops.taps() == {2, 3}, "the pool has its size")
    assert not any("release" in call and "keep" not in call and call.count(",") == 0 for call in host.ops.calls if call.startswith("release [2"))


async def test_detach_deletes_no_link_itself(host: Host) -> None:
    place = await host.attach()
    host.ops.calls.clear()
    await host.detach(place)
    assert host.ops.calls == ["release [2] keep"]


async def test_without_a_pool_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "SETTLE_SECONDS", 0.005)
    host = Host(FakeNetworkOps(tmp_path), pool_size=0)
    await host.detach(await host.attach())
    await eventually(lambda: host.ops.taps() == set(), "no tap is left")
    await host.network.close()


async def test_a_tap_that_the_pool_is_removing_is_waited_for(host: Host) -> None:
    place = await host.attach()
    await host.detach(place, delete=False)  # a machine that was stopped: its slot is not free, so its tap is too much
    settling = asyncio.create_task(host.network._pool.settle())
    await asyncio.sleep(0)
    await host.attach(address=place.address)
    await settling
    assert {2} <= host.ops.taps()


async def test_a_machine_that_has_no_tap_is_detached_without_a_call(host: Host) -> None:
    await host.network.detach(VM, NOWHERE, NetworkPlace(address="172.31.99.2"))
    await host.network.detach(VM, NOWHERE, NetworkPlace(address="172.31.99.2", tap="other0-2"))
    assert host.ops.calls == []


async def test_a_removed_bridge_is_made_again_by_who_attaches(host: Host) -> None:
    old = await host.attach(nat=True)
    host.ops.flush()
    new = await host.attach(nat=True)
    assert host.ops.nat() == {old.address, new.address}
    assert host.told == [(old.address, "repaired")]


async def test_a_removed_bridge_is_made_again_while_machines_run_and_nobody_looks_else(host: Host) -> None:
    place = await host.attach(nat=True)
    shut = await host.attach()
    host.ops.flush()
    await eventually(lambda: host.ops.nat() == {place.address}, "NAT is back")
    await eventually(lambda: len(host.told) == 2, "both are told")
    assert set(host.told) == {(place.address, "repaired"), (shut.address, "repaired")}
    await host.detach(place)
    await host.detach(shut)
    await asyncio.sleep(0.05)
    host.ops.calls.clear()
    await asyncio.sleep(0.05)
    assert host.ops.calls == []


async def test_a_tap_that_somebody_removed_is_told_once(host: Host) -> None:
    place = await host.attach()
    (host.ops.directory / "taps" / "2").unlink()
    await eventually(lambda: host.told, "it is told")
    await asyncio.sleep(0.05)
    assert host.told == [(place.address, "failure")]


async def test_a_host_that_refuses_is_an_error_of_who_attaches(host: Host) -> None:
    host.ops.broken = "the subnet overlaps the route 172.31.0.0/16"
    await host.network.resume()
    with pytest.raises(CommandFailed, match="overlaps"):
        await host.attach()
    host.ops.broken = ""
    await host.attach()


async def test_a_new_daemon_finds_strays_and_sets_nat_right(host: Host) -> None:
    stays, gone = await host.attach(nat=True), await host.attach(nat=True)
    await host.network.close()
    host.out = {stays.address: False}  # it was changed, and the daemon died before it could do it
    host.addresses = {stays.address}
    host.network = host.daemon()
    await host.network.resume()
    assert host.ops.nat() == set()
    assert gone.tap not in await host.network.stray_taps()
    host.out[stays.address] = True
    await host.network.resume()
    assert host.ops.nat() == {stays.address}


async def test_a_tap_of_nobody_is_stray_and_can_be_removed(host: Host) -> None:
    place = await host.attach()
    await eventually(lambda: host.ops.taps() == {2, 3, 4}, "the pool is full")
    (host.ops.directory / "taps" / "9").touch()
    assert await host.network.stray_taps() == ("fake0-9",)
    with pytest.raises(BadRequest, match="belongs to a machine"):
        await host.network.remove_tap(place.tap)
    await host.network.remove_tap("fake0-9")
    assert await host.network.stray_taps() == ()


async def test_many_at_once_do_not_collide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "SETTLE_SECONDS", 0.0)
    host = Host(FakeNetworkOps(tmp_path, network_plan("fake0", "10.99.0.0/24")), pool_size=4)

    async def life(number: int) -> None:
        for _ in range(5):
            place = await host.attach(nat=number % 2 == 0)
            await asyncio.sleep(0)
            assert host.ops.plan.slot_of_tap(place.tap) in host.ops.taps()
            assert (place.address in host.ops.nat()) is (number % 2 == 0)
            await host.detach(place)

    await asyncio.gather(*map(life, range(16)))
    await eventually(lambda: len(host.ops.taps()) == 4, "the pool has its size")
    assert host.ops.nat() == set()
    await host.network.close()


async def test_counters_and_warnings_are_those_of_the_host(host: Host) -> None:
    place = await host.attach(nat=True)
    assert (await host.network.traffic())[place.address].received_bytes == 2048
    host.ops.warnings = ("ufw drops what is forwarded",)
    assert await host.network.check() == ("ufw drops what is forwarded",)
