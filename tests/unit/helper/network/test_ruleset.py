"""The text of the tables."""

from __future__ import annotations

import re
from ipaddress import IPv4Network

import pytest

from banger.helper.network import ruleset
from banger.model.network import Traffic, network_plan

PLAN = network_plan("banger0", "172.30.86.0/28")


def test_tables_are_replaced_in_one_transaction_that_always_succeeds() -> None:
    text = ruleset.tables(PLAN, [IPv4Network("10.0.0.0/8")], [], {})
    assert text.startswith("add table inet banger0\ndelete table inet banger0\nadd table bridge banger0\ndelete table bridge banger0\n")
    assert text.startswith(ruleset.no_tables(PLAN))
    assert "set neighbours { type ipv4_addr; flags interval; elements = { 10.0.0.0/8 }; }" in text
    assert "set reachable { type ipv4_addr; flags interval; }" in text


def test_every_slot_is_pinned() -> None:
    pins = re.findall(r'"(\S+)" \. (\S+) \. ([0-9.]+)', ruleset.bridge_rules(PLAN))
    assert pins == [(PLAN.tap(slot), PLAN.mac(slot), str(PLAN.address(slot))) for slot in PLAN.slots]
    assert len(pins) == 13


def test_members_keep_their_counters() -> None:
    moved = Traffic(sent_packets=1, sent_bytes=2, received_packets=3, received_bytes=4)
    text = ruleset.tables(PLAN, [], [], {"172.30.86.2": moved})
    assert "set nat_sent { type ipv4_addr; counter; elements = { 172.30.86.2 counter packets 1 bytes 2 }; }" in text
    assert "set nat_received { type ipv4_addr; counter; elements = { 172.30.86.2 counter packets 3 bytes 4 }; }" in text


def test_what_is_deleted_is_added_before() -> None:
    assert ruleset.changed_nat(PLAN, {"172.30.86.2": True, "172.30.86.3": False}).splitlines() == [
        "add element inet banger0 nat_sent { 172.30.86.2, 172.30.86.3 }",
        "add element inet banger0 nat_received { 172.30.86.2, 172.30.86.3 }",
        "delete element inet banger0 nat_sent { 172.30.86.3 }",
        "delete element inet banger0 nat_received { 172.30.86.3 }",
    ]
    assert ruleset.changed_nat(PLAN, {}) == ""


def test_networks_are_replaced() -> None:
    changed = ruleset.changed_networks(PLAN, {"neighbours": [IPv4Network("10.0.0.0/8")], "reachable": []})
    assert changed == "flush set inet banger0 neighbours\nadd element inet banger0 neighbours { 10.0.0.0/8 }\nflush set inet banger0 reachable\n"


def test_the_mark_tells_versions_and_plans_apart() -> None:
    assert ruleset.is_mark(ruleset.mark(PLAN))
    assert ruleset.mark(PLAN) != ruleset.mark(network_plan("banger0", "172.30.86.0/24"))
    assert not ruleset.is_mark("banger_mine")


@pytest.mark.parametrize(("rules", "chains"), [(ruleset.inet_rules(PLAN), 5), (ruleset.bridge_rules(PLAN), 4)])
def test_rules_are_counted(rules: str, chains: int) -> None:
    counts = ruleset.rule_counts(rules)
    assert len(counts) == chains
    assert all(counts.values())
