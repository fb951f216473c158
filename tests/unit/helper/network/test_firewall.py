"""What nft tells, understood."""

from __future__ import annotations

import json
from typing import Any

import pytest

from banger.helper.network import firewall, ruleset
from banger.helper.network.firewall import Firewall, chains_of, networks_of, traffic_of
from banger.model.errors import BadRequest
from banger.model.network import Traffic, network_plan

PLAN = network_plan("banger0", "172.30.86.0/28")


def listing(counts: dict[str, int], family: str) -> list[dict[str, Any]]:
    chains = [{"chain": {"family": family, "table": "banger0", "name": name}} for name in counts]
    return chains + [
        {"rule": {"family": family, "table": "banger0", "chain": name, "expr": [{"drop": None}]}} for name, count in counts.items() for _ in range(count)
    ]


def made(*, without: str = "") -> Firewall:
    objects = []
    for family, rules in (("inet", ruleset.inet_rules(PLAN)), ("bridge", ruleset.bridge_rules(PLAN))):
        counts = ruleset.rule_counts(rules) | {ruleset.mark(PLAN): 0}
        counts.pop(without, None)
        objects += listing(counts, family)
    return Firewall(chains=tuple(chains_of(objects)), tables=frozenset({("inet", "banger0"), ("bridge", "banger0")}))


def test_whole_tables_have_no_faults() -> None:
    assert made().faults(PLAN) == ()
    assert made(without="guest_pins").faults(PLAN) == ("the table bridge banger0",)
    assert Firewall().faults(PLAN) == ("the table inet banger0", "the table bridge banger0")


def test_tables_of_another_version_are_ours() -> None:
    other = Firewall(chains=tuple(chains_of(listing({"banger_0123456789ab": 0, "old": 2}, "inet"))))
    other.refuse_foreign(PLAN)
    assert "the table inet banger0" in other.faults(PLAN)


def test_a_foreign_table_is_refused() -> None:
    with pytest.raises(BadRequest, match="inet banger0 is not ours"):
        Firewall(chains=tuple(chains_of(listing({"mine": 1}, "inet")))).refuse_foreign(PLAN)


def test_counters_in_both_directions() -> None:
    sent = [{"elem": {"val": "172.30.86.10", "counter": {"packets": 1, "bytes": 20}}}, "172.30.86.9"]
    received = [{"elem": {"val": "172.30.86.10", "counter": {"packets": 3, "bytes": 40}}}]
    found = traffic_of(sent, received)
    assert list(found) == ["172.30.86.9", "172.30.86.10"]
    assert found["172.30.86.10"] == Traffic(sent_packets=1, sent_bytes=20, received_packets=3, received_bytes=40)


def test_intervals() -> None:
    elements = [{"prefix": {"addr": "10.0.0.0", "len": 8}}, {"range": ["192.168.0.0", "192.168.2.255"]}, "1.2.3.4"]
    assert [str(network) for network in networks_of(elements)] == ["10.0.0.0/8", "192.168.0.0/23", "192.168.2.0/24", "1.2.3.4/32"]
    assert list(networks_of([])) == []


@pytest.mark.parametrize(
    ("rule", "closed"),
    [([{"counter": {}}, {"reject": None}], True), ([{"drop": None}], True), ([{"match": {}}, {"drop": None}], False), ([{"accept": None}], False)],
)
def test_a_chain_that_ends_closed(rule: list[dict[str, Any]], closed: bool) -> None:
    objects: list[dict[str, Any]] = [
        {"chain": {"family": "ip", "table": "t", "name": "c", "hook": "forward"}},
        {"rule": {"family": "ip", "table": "t", "chain": "c", "expr": rule}},
    ]
    assert [chain.ends_closed for chain in chains_of(objects)] == [closed]


def test_parsing() -> None:
    assert firewall.parse(json.dumps({"nftables": [{"metainfo": {}}]}).encode()) == [{"metainfo": {}}]
    assert firewall.parse(b"") == []


async def test_more_rules_than_can_be_read_are_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    from banger.host.run import Completed

    asked = []

    async def run(argv: list[str], **_: object) -> Completed:
        asked.append(argv[-4:])
        return Completed(tuple(argv), 0, b'"cut": 1}]}' if argv[-1] == "ruleset" else json.dumps({"nftables": listing({"c": 1}, argv[-2])}).encode(), b"")

    monkeypatch.setattr(firewall, "run", run)
    found = await firewall.read(PLAN)
    assert {chain.family for chain in found.chains} == {"inet", "bridge"}
