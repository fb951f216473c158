"""Changes of many callers in few transactions."""

from __future__ import annotations

import asyncio

import pytest

from banger.helper.network import firewall
from banger.helper.network.host_network import HostNetwork
from banger.helper.network.nat import NatSets
from banger.helper.protocol import NetworkOps
from banger.model.errors import BadRequest, CommandFailed
from banger.model.network import network_plan

PLAN = network_plan()


@pytest.fixture
def applied(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    texts: list[str] = []

    async def apply(text: str) -> None:
        texts.append(text)
        await asyncio.sleep(0.01)
        if "172.30.86.66" in text:
            raise CommandFailed("no")

    monkeypatch.setattr(firewall, "apply", apply)
    return texts


async def test_callers_share(applied: list[str]) -> None:
    sets = NatSets(PLAN)
    sets.saw([])
    await asyncio.gather(*(sets.change({str(PLAN.address(slot)): True}) for slot in range(2, 18)))
    assert len(applied) <= 2
    assert sets.members == {str(PLAN.address(slot)) for slot in range(2, 18)}
    await sets.change({"172.30.86.2": False})
    assert not sets.may_have("172.30.86.2")


async def test_a_cancelled_caller_breaks_nobody(applied: list[str]) -> None:
    sets = NatSets(PLAN)
    sets.saw([])
    first = asyncio.ensure_future(sets.change({"172.30.86.2": True}))
    await asyncio.sleep(0.001)
    second = asyncio.ensure_future(sets.change({"172.30.86.3": True}))
    await asyncio.sleep(0.001)
    first.cancel()
    await second
    with pytest.raises(asyncio.CancelledError):
        await first
    assert sets.members == {"172.30.86.2", "172.30.86.3"}, "what had begun was finished before the cancellation went on"
    assert len(applied) == 2


async def test_a_failure_is_everybodys_and_ends(applied: list[str]) -> None:
    sets = NatSets(PLAN)
    sets.saw([])
    changes = [{"172.30.86.2": True}, {"172.30.86.66": True}, {"172.30.86.4": True}]
    first, *shared = await asyncio.gather(*map(sets.change, changes), return_exceptions=True)
    assert first is None
    assert all(isinstance(result, CommandFailed) for result in shared)
    assert sets.members == {"172.30.86.2"}
    await sets.change({"172.30.86.4": True})
    assert sets.members == {"172.30.86.2", "172.30.86.4"}


def test_nothing_is_known_before_a_look() -> None:
    sets = NatSets(PLAN)
    assert sets.may_have("172.30.86.2")
    assert sets.members == set()
    sets.saw(["172.30.86.3"])
    assert not sets.may_have("172.30.86.2")


async def test_the_hosts_network_has_the_verbs_and_refuses_other_subnets() -> None:
    network: NetworkOps = HostNetwork(PLAN, reachable=["192.168.1.0/24"], tap_owner=1000)
    with pytest.raises(BadRequest, match=r"10\.0\.0\.1 is no machine's address"):
        await network.set_nat({"10.0.0.1": True})
    with pytest.raises(BadRequest, match="no slot 400"):
        await network.warm_taps([400])
    await network.release_taps([], keep=False)
