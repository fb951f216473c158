"""The two nftables tables of ours, as text for ``nft -f``. Pure: everything follows from the plan and from what is to be reached.

Both bear the bridge's name. The ``bridge`` one pins every tap to its MAC and address, for all slots at once and in a set that cannot be emptied, so that no
tap ever waits for a rule. The ``inet`` one says who may talk to whom; membership is asked before connection tracking, so who loses it is cut off at once.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Network
from typing import Final

from ...model.network import NetworkPlan, Traffic

SENT: Final = "nat_sent"
RECEIVED: Final = "nat_received"
NEIGHBOURS: Final = "neighbours"
REACHABLE: Final = "reachable"
_MARK: Final = "banger_"
#: Never to be reached: this network, loopback, link-local with its metadata services, multicast and what is reserved (RFC 6890).
_CLOSED: Final = "{ 0.0.0.0/8, 127.0.0.0/8, 169.254.0.0/16, 224.0.0.0/3 }"


def inet_rules(plan: NetworkPlan) -> str:
    """Chains of the inet table."""
    bridge, gateway = plan.bridge, plan.gateway
    return f"""
    chain guest_input {{
        type filter hook input priority filter - 10; policy accept;
        iifname != "{bridge}" accept
        ct state established,related accept comment "answers to the host"
        ip daddr {gateway} icmp type echo-request accept
        ip daddr {gateway} meta l4proto {{ tcp, udp }} th dport 53 accept comment "names"
        reject with icmpx admin-prohibited comment "the host is closed to its guests"
    }}
    chain from_guest {{
        oifname "{bridge}" drop comment "guests do not see each other"
        meta nfproto != ipv4 drop comment "no IPv6"
        ip daddr {_CLOSED} reject with icmpx admin-prohibited comment "metadata services and the like"
        ip daddr != @{REACHABLE} ip daddr @{NEIGHBOURS} reject with icmpx admin-prohibited comment "the host's neighbours"
        tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu
        ct state invalid drop comment "would go out with the guest's own address"
        ip saddr @{SENT} accept comment "NAT is on"
        reject with icmpx admin-prohibited comment "NAT is off"
    }}
    chain to_guest {{
        tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu
        ct state established,related ip daddr @{RECEIVED} accept
        drop comment "nobody outside begins"
    }}
    chain guest_forward {{
        type filter hook forward priority filter - 10; policy accept;
        iifname "{bridge}" goto from_guest
        oifname "{bridge}" goto to_guest
    }}
    chain guest_nat {{
        type nat hook postrouting priority srcnat; policy accept;
        ip saddr {plan.subnet} ip saddr != {gateway} oifname != "{bridge}" masquerade
    }}
"""


def bridge_rules(plan: NetworkPlan) -> str:
    """Chains of the bridge table. A bridge's name has no dash, so the pattern fits our taps alone.

    The kernel takes a VLAN's tag off before it asks: ``ether type`` looks as if it were still there (net/netfilter/nft_payload.c), nothing else does.
    """
    pins = ", ".join(f'"{plan.tap(slot)}" . {plan.mac(slot)} . {plan.address(slot)}' for slot in plan.slots)
    return f"""
    set pins {{ type ifname . ether_addr . ipv4_addr; flags constant; elements = {{ {pins} }} }}
    chain guest_pins {{
        type filter hook prerouting priority dstnat; policy accept;
        iifname != "{plan.bridge}-*" accept
        ether type != {{ ip, arp }} drop comment "IPv6, and a VLAN's tag, which only this sees"
        iifname . ether saddr . ip saddr @pins accept
        arp operation {{ request, reply }} iifname . ether saddr . arp saddr ip @pins goto guest_arp
        drop comment "another's address"
    }}
    chain guest_arp {{
        iifname . arp saddr ether . arp saddr ip @pins accept
        drop comment "an answer for another"
    }}
    chain guest_forward {{
        type filter hook forward priority filter; policy accept;
        iifname "{plan.bridge}-*" drop comment "guests do not see each other"
        oifname "{plan.bridge}-*" drop
    }}
    chain guest_output {{
        type filter hook output priority filter; policy accept;
        oifname "{plan.bridge}-*" ether type != {{ ip, arp }} drop comment "no IPv6"
    }}
"""


def mark(plan: NetworkPlan) -> str:
    """Name of an empty chain that tells our tables, and of which rules, from others of the name."""
    return _MARK + hashlib.sha256((inet_rules(plan) + bridge_rules(plan)).encode()).hexdigest()[:12]


def is_mark(chain: str) -> bool:
    """Some version of us made the table with this chain."""
    return re.fullmatch(_MARK + "[0-9a-f]{12}", chain) is not None


def rule_counts(rules: str) -> dict[str, int]:
    """How many rules each chain has."""
    chains = re.findall(r"^    chain (\w+) \{(.*?)^    \}", rules, re.MULTILINE | re.DOTALL)
    return {name: sum(1 for line in body.splitlines() if line.strip() and not line.strip().startswith("type ")) for name, body in chains}


def tables(plan: NetworkPlan, neighbours: Iterable[IPv4Network], reachable: Iterable[IPv4Network], nat: Mapping[str, Traffic]) -> str:
    """Both tables made anew in one transaction, whether they were there or not; ``nat`` are the members to keep, with their counters."""
    name, tag = plan.bridge, mark(plan)
    fresh = "".join(f"add table {family} {name}\ndelete table {family} {name}\n" for family in ("inet", "bridge"))
    return (
        f"{fresh}table inet {name} {{\n{_members(SENT, _sent(nat))}{_members(RECEIVED, _received(nat))}"
        f"{_networks(NEIGHBOURS, neighbours)}{_networks(REACHABLE, reachable)}"
        f"{inet_rules(plan)}    chain {tag} {{ }}\n}}\n"
        f"table bridge {name} {{\n{bridge_rules(plan)}    chain {tag} {{ }}\n}}\n"
    )


def no_tables(plan: NetworkPlan) -> str:
    """Both tables removed, whether they were there or not."""
    return "".join(f"add table {family} {plan.bridge}\ndelete table {family} {plan.bridge}\n" for family in ("inet", "bridge"))


def changed_networks(plan: NetworkPlan, networks: Mapping[str, Iterable[IPv4Network]]) -> str:
    """Sets of networks replaced."""
    return "".join(f"flush set inet {plan.bridge} {name}\n{_elements(plan, name, map(str, wanted))}" for name, wanted in networks.items())


def changed_nat(plan: NetworkPlan, addresses: Mapping[str, bool]) -> str:
    """Members of the NAT sets changed. Who is a member already keeps its counters; what is deleted is added first, because deleting what is not there fails."""
    gone = [address for address, member in addresses.items() if not member]
    lines = _elements_of_both(plan, "add", addresses) + _elements_of_both(plan, "delete", gone)
    return "".join(lines)


def _elements_of_both(plan: NetworkPlan, verb: str, addresses: Iterable[str]) -> list[str]:
    listed = ", ".join(addresses)
    return [f"{verb} element inet {plan.bridge} {name} {{ {listed} }}\n" for name in (SENT, RECEIVED)] if listed else []


def _elements(plan: NetworkPlan, name: str, elements: Iterable[str]) -> str:
    listed = ", ".join(elements)
    return f"add element inet {plan.bridge} {name} {{ {listed} }}\n" if listed else ""


def _sent(nat: Mapping[str, Traffic]) -> list[str]:
    return [f"{address} counter packets {moved.sent_packets} bytes {moved.sent_bytes}" for address, moved in nat.items()]


def _received(nat: Mapping[str, Traffic]) -> list[str]:
    return [f"{address} counter packets {moved.received_packets} bytes {moved.received_bytes}" for address, moved in nat.items()]


def _members(name: str, elements: list[str]) -> str:
    held = f" elements = {{ {', '.join(elements)} }};" if elements else ""
    return f"    set {name} {{ type ipv4_addr; counter;{held} }}\n"


def _networks(name: str, networks: Iterable[IPv4Network]) -> str:
    listed = ", ".join(map(str, networks))
    held = f" elements = {{ {listed} }};" if listed else ""
    return f"    set {name} {{ type ipv4_addr; flags interval;{held} }}\n"
