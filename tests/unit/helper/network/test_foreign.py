"""Firewalls of others, and what we tell of them."""

from __future__ import annotations

import pytest

from banger.helper.network.firewall import Firewall, chains_of
from banger.helper.network.foreign import ForeignTable, legacy_table, nft_tables, warnings

BRIDGE = "banger0"


def told(table: ForeignTable) -> tuple[str, ...]:
    return warnings([table], BRIDGE)


def test_an_open_table_is_no_matter() -> None:
    assert told(ForeignTable("ip", "filter", "iptables", {}, {"FORWARD": ()})) == ()


def test_the_old_iptables() -> None:
    table = legacy_table("-P INPUT ACCEPT\n-P FORWARD DROP\n-N DOCKER-USER\n-A FORWARD -j DOCKER-USER\n-A DOCKER-USER -j RETURN\n")
    assert (table.closed, table.rules["DOCKER-USER"]) == ({"forward": "FORWARD"}, ("-j RETURN",))
    assert told(table) == (
        "the table ip filter drops what machines send and get: "
        "sudo iptables-legacy -I FORWARD -i banger0 -j ACCEPT && sudo iptables-legacy -I FORWARD -o banger0 -j ACCEPT",
    )
    joined = legacy_table("-P FORWARD DROP\n-N DOCKER-USER\n-A DOCKER-USER -i banger0 -j ACCEPT\n-A DOCKER-USER -o banger0 -j ACCEPT\n")
    assert told(joined) == ()


def test_another_bridge_is_not_ours() -> None:
    table = legacy_table("-P FORWARD DROP\n-A FORWARD -i banger01 -j ACCEPT\n-A FORWARD -i banger0-2 -j ACCEPT\n")
    assert table.names(BRIDGE) == 0
    assert len(told(table)) == 1


@pytest.mark.parametrize("rules", ["-A FORWARD -i banger0 -j ACCEPT\n-A FORWARD -o banger0 -j ACCEPT\n", "-A DOCKER-USER -i banger0 -j ACCEPT\n" * 2])
def test_a_rule_for_what_is_forwarded_opens_no_input(rules: str) -> None:
    table = legacy_table("-P INPUT DROP\n-P FORWARD DROP\n-N DOCKER-USER\n-A FORWARD -j DOCKER-USER\n" + rules)
    assert told(table) == ("the table ip filter drops what machines ask the host's DNS: sudo iptables-legacy -I INPUT -i banger0 -j ACCEPT",)


def test_a_rule_in_a_chain_that_is_called_counts() -> None:
    table = legacy_table("-P INPUT DROP\n-N mine\n-N yours\n-A INPUT -j mine\n-A mine -g yours\n-A yours -i banger0 -j ACCEPT\n-A yours -j INPUT\n")
    assert table.reached_from("INPUT") == {"INPUT", "mine", "yours"}
    assert told(table) == ()


def test_ufw() -> None:
    rules = {"FORWARD": ("-j ufw-user-forward",), "ufw-user-forward": (), "ufw-user-input": ()}
    table = ForeignTable("ip", "filter", "iptables", {"forward": "FORWARD", "input": "INPUT"}, rules)
    assert told(table) == (
        "ufw drops what machines send: sudo ufw route allow in on banger0",
        "ufw drops what machines ask the host's DNS: sudo ufw allow in on banger0 to any port 53",
    )
    allowed = rules | {"ufw-user-forward": ("-i banger0 -j ACCEPT",), "ufw-user-input": ("-i banger0 -p udp --dport 53 -j ACCEPT",)}
    assert told(ForeignTable("ip", "filter", "iptables", table.closed, allowed)) == ()


def test_firewalld() -> None:
    objects = [{"chain": {"family": "inet", "table": "firewalld", "name": "filter_FORWARD", "hook": "forward", "policy": "accept"}}]
    (table,) = nft_tables(Firewall(chains=tuple(chains_of(objects)), tables=frozenset({("inet", "firewalld")})), BRIDGE)
    assert told(table) == (
        "firewalld drops what machines send: sudo firewall-cmd --permanent --zone=trusted --add-interface=banger0 && sudo firewall-cmd --reload",
    )
    rule = {"rule": {"family": "inet", "table": "firewalld", "chain": "filter_FORWARD", "expr": [{"match": {"right": "banger0"}}]}}
    (table,) = nft_tables(Firewall(chains=tuple(chains_of([*objects, rule])), tables=frozenset({("inet", "firewalld")})), BRIDGE)
    assert told(table) == ()


def test_our_own_and_other_families_are_not_looked_at() -> None:
    assert list(nft_tables(Firewall(tables=frozenset({("inet", BRIDGE), ("bridge", BRIDGE), ("ip6", "filter"), ("bridge", "x")})), BRIDGE)) == []
