"""Machines on a bridge: the row keeps address and tap, NAT is switched while they run, and what is left is found."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from banger.model.errors import CommandFailed, NotStopped
from banger.model.progress import silent
from banger.model.records import VMState
from banger.net import pool
from banger.vm.change import Change
from tests.fakes.bridge import FakeNetworkOps, broken_promises, fake_bridge
from tests.unit.vm.test_service import SMALL, Instance, eventually


class Bridged(Instance):
    """An instance whose machines are on the bridge of tests/fakes/bridge.py."""

    def use_bridge(self) -> None:
        """From now on, as a daemon with another configuration."""
        networking = fake_bridge(self.layout.state / "network", self.database)
        self.ops = FakeNetworkOps(self.layout.state / "network")
        services = self.machines._services
        (nat,) = networking.capabilities
        services.capabilities._members = (*services.capabilities._members, nat)
        object.__setattr__(services, "network", networking.driver)

    def wrong(self) -> list[str]:
        return broken_promises(self.ops.directory, [dict(row) for row in self.database.execute("SELECT * FROM vms")])


@pytest.fixture
async def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bridged]:
    monkeypatch.setattr(pool, "SETTLE_SECONDS", 0.005)
    instance = Bridged(tmp_path)
    instance.use_bridge()
    yield instance
    await instance.machines.close()
    await instance.world.close()
    instance.database.close()


async def test_the_address_is_for_life_and_the_tap_while_it_runs(instance: Bridged) -> None:
    record = await instance.create(replace(SMALL, nat=True))
    assert (record.runtime.network, record.runtime.address, record.runtime.tap) == ("bridge", "172.31.99.2", "fake0-2")
    await eventually(lambda: instance.wrong() == [], "the pool has come to rest")
    stopped = await instance.machines.stop("box", timeout=5, report=silent)
    assert (stopped.runtime.address, stopped.runtime.tap) == ("172.31.99.2", "")
    await eventually(lambda: instance.wrong() == [], "the pool has come to rest")
    again = await instance.machines.start("box", wait_booted=False, report=silent)
    assert (again.runtime.address, again.runtime.tap) == ("172.31.99.2", "fake0-2")
    await instance.machines.delete("box", report=silent)
    await eventually(lambda: instance.wrong() == [], "the pool has come to rest again")


async def test_an_address_is_a_machine_s_before_it_is_started(instance: Bridged) -> None:
    records = await asyncio.gather(*(instance.create(replace(SMALL, name=f"box{number}", start=number % 2 == 0)) for number in range(6)))
    assert len({record.runtime.address for record in records}) == 6
    assert {record.runtime.tap != "" for record in records if record.state is VMState.STOPPED} == {False}


async def test_one_that_was_made_without_a_bridge_gets_its_address_when_it_is_started(instance: Bridged) -> None:
    await instance.create(replace(SMALL, start=False))
    instance.machines._update(instance.machines.find("box").id, lambda record: replace(record, runtime=replace(record.runtime, address="")))
    assert (await instance.machines.start("box", wait_booted=False, report=silent)).runtime.address == "172.31.99.2"


async def test_a_failed_start_names_no_tap(instance: Bridged) -> None:
    instance.world.faults.launch = True
    with pytest.raises(Exception, match="half launched"):
        await instance.create(replace(SMALL, nat=True))
    record = instance.machines.find("box")
    assert (record.state, record.runtime.tap, instance.ops.nat()) == (VMState.ERROR, "", set())


async def test_nat_is_switched_while_it_runs_and_the_link_stays(instance: Bridged) -> None:
    record = await instance.create()
    for nat in (True, False, True):
        assert (await instance.machines.change("box", Change(nat=nat), report=silent)).spec.nat is nat
        assert instance.ops.nat() == ({record.runtime.address} if nat else set())
    assert instance.world.links == []
    await eventually(lambda: instance.wrong() == [], "the pool has come to rest")


async def test_nat_that_cannot_be_switched_is_told_and_not_recorded(instance: Bridged) -> None:
    await instance.create(replace(SMALL, nat=True))
    driver = instance.machines._services.network
    driver._ops.broken = "nft is gone"  # type: ignore[attr-defined]  # the driver under test
    with pytest.raises(CommandFailed, match="nft is gone"):
        await instance.machines.change("box", Change(nat=False), report=silent)
    driver._ops.broken = ""  # type: ignore[attr-defined]  # the same
    record = instance.machines.find("box")
    assert (record.spec.nat, record.runtime.last_error) == (True, "nft is gone")
    await eventually(lambda: instance.wrong() == [], "the pool has come to rest")


async def test_a_daemon_without_the_bridge_does_not_switch_it(instance: Bridged) -> None:
    await instance.create()
    object.__setattr__(instance.machines._services, "network", object())
    with pytest.raises(NotStopped, match="bridge that this daemon does not have"):
        await instance.machines.change("box", Change(nat=True), report=silent)


async def test_the_counters_are_shown_while_it_may_go_out(instance: Bridged) -> None:
    await instance.create()
    assert (await instance.machines.usage("box")).traffic is None
    await instance.machines.change("box", Change(nat=True), report=silent)
    traffic = (await instance.machines.usage("box")).traffic
    assert traffic is not None
    assert (traffic.sent_bytes, traffic.received_bytes) == (100, 2048)


async def test_a_stray_tap_is_found_and_removed(instance: Bridged) -> None:
    await instance.create()
    (instance.ops.directory / "taps" / "11").touch()
    found = await instance.machines.collect_garbage(dry_run=True, report=silent)
    assert [(one.kind, one.what) for one in found] == [("tap", "fake0-11")]
    assert [one.removed for one in await instance.machines.collect_garbage(dry_run=False, report=silent)] == [True]
    assert await instance.machines.collect_garbage(dry_run=True, report=silent) == ()


async def test_the_tap_of_a_row_that_did_not_come_to_clear_it_is_released_by_the_next_daemon(instance: Bridged) -> None:
    record = await instance.create()
    await instance.machines.stop("box", timeout=5, report=silent)
    instance.machines._update(record.id, lambda record: replace(record, runtime=replace(record.runtime, tap="fake0-2")))
    await instance.machines.recover()
    assert instance.machines.find("box").runtime.tap == ""
