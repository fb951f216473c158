"""The address plan of a bridge: which address, tap and MAC a slot has. Everything follows from the plan and a slot's number, so nothing is ever looked up."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from typing import Final

from .errors import BadRequest

DEFAULT_BRIDGE: Final = "banger0"
DEFAULT_SUBNET: Final = "172.30.86.0/24"
DEFAULT_DNS_PORT: Final = 42069
MAX_SLOTS: Final = 1000
"""A Linux bridge has 1023 ports (BR_PORT_BITS in net/bridge/br_private.h)."""
FIRST_SLOT: Final = 2
"""Slot N has the Nth address of the subnet; the first is the bridge's own."""
_BRIDGE: Final = re.compile(r"[a-z][a-z0-9_]{0,9}")
_WORDS_OF_NFT: Final = frozenset(
    "accept add ah all and arp bridge cgroup chain chains comment comp constant continue counter counters cpu create ct day dccp define delete describe "
    "destroy device devices dnat drop dst dup dynamic ecn element elements eq esp ether exists expires export exthdr fib flags flow flowtable flowtables "
    "flush frag fwd ge geneve get goto gre gretap gt handle hbh hook hooks hour ibriport ibrname icmp icmpv6 igmp iif iifgroup iifname iiftype import "
    "include index inet insert interval ip ip6 ipsec jhash jump last le limit limits list log lshift lt map maps mark masquerade meta meter meters mh "
    "missing monitor ne netdev nftrace not notrack numgen obriport obrname offload oif oifgroup oifname oiftype or osf pkttype policy position priority "
    "queue quota quotas random redefine redirect reject rename replace reset return rshift rt rt0 rt2 rtclassid rule rules ruleset sctp secmark secmarks "
    "set sets size skgid skuid snat socket srh symhash synproxy synproxys table tables tcp th time timeout tproxy tunnel tunnels type typeof udp udplite "
    "undefine update vlan vmap vni vxlan xor xt".split()
)
"""What nft may take for a word of its language where a table's name stands, and names cannot be quoted (src/scanner.l of nftables; up to 10 letters)."""
_PRIVATE: Final = tuple(map(IPv4Network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10")))
"""RFC 1918 and RFC 6598 (shared address space): nothing out there has these, and they are routed as any other."""
_LARGEST_PREFIX: Final = 29
_SMALLEST_PREFIX: Final = 16


@dataclass(frozen=True, slots=True)
class NetworkPlan:
    """One bridge and its subnet. Made by ``network_plan``, which checks it."""

    bridge: str
    subnet: IPv4Network

    @property
    def gateway(self) -> IPv4Address:
        """The bridge's own address, which is the guests' router and resolver."""
        return self.subnet.network_address + 1

    @property
    def slots(self) -> range:
        """Numbers of the slots that machines can have."""
        return range(FIRST_SLOT, min(self.subnet.num_addresses - 1, FIRST_SLOT + MAX_SLOTS))

    def address(self, slot: int) -> IPv4Address:
        """Address of a machine in that slot."""
        return self.subnet.network_address + slot

    def slot_of(self, address: IPv4Address | str) -> int:
        """The slot that has this address. Raises BadRequest when it is none of the plan's."""
        slot = int(IPv4Address(address)) - int(self.subnet.network_address)
        if slot not in self.slots:
            raise BadRequest(f"{address} is no machine's address in {self.subnet}", hint="the subnet was changed; delete the machine or change it back")
        return slot

    def tap(self, slot: int) -> str:
        """Name of the slot's tap; at most 15 bytes (IFNAMSIZ) by the rules for bridges' names."""
        return f"{self.bridge}-{slot}"

    def slot_of_tap(self, name: str) -> int | None:
        """The slot whose tap bears this name; None for a foreign one."""
        number = name.removeprefix(f"{self.bridge}-")
        return int(number) if number.isdigit() and self.tap(int(number)) == name and int(number) in self.slots else None

    def mac(self, slot: int) -> str:
        """MAC address of the slot's card: a locally administered prefix and the IPv4 address, so that it goes with the address for ever."""
        return "06:00:" + ":".join(f"{byte:02x}" for byte in self.address(slot).packed)


def network_plan(bridge: str = DEFAULT_BRIDGE, subnet: str = DEFAULT_SUBNET) -> NetworkPlan:
    """The plan with this bridge and subnet. Raises BadRequest for a name or a subnet that cannot be."""
    if not _BRIDGE.fullmatch(bridge):
        raise BadRequest(f"{bridge!r} cannot name a bridge", hint="a lower-case letter, then up to 9 lower-case letters, digits or _")
    if bridge in _WORDS_OF_NFT:
        raise BadRequest(f"{bridge!r} cannot name a bridge: it is a word of the language of nftables", hint=f"add a digit, for example {bridge[:9]}0")
    try:
        network = IPv4Network(subnet)
    except ValueError as error:
        raise BadRequest(f"{subnet!r} is not an IPv4 subnet: {error}", hint=f"for example {DEFAULT_SUBNET}") from error
    if not any(map(network.subnet_of, _PRIVATE)) or not _SMALLEST_PREFIX <= network.prefixlen <= _LARGEST_PREFIX:
        raise BadRequest(
            f"{subnet} cannot be the machines' subnet",
            hint=f"a private one with a prefix of {_SMALLEST_PREFIX} to {_LARGEST_PREFIX} bits, such as {DEFAULT_SUBNET}",
        )
    return NetworkPlan(bridge, network)


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What has passed between a machine and the outside since its NAT was switched on."""

    sent_packets: int
    sent_bytes: int
    received_packets: int
    received_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkState:
    """What the host shows of the bridge's network."""

    taps: tuple[int, ...] = ()
    """Slots that have a tap now."""
    nat: Mapping[str, Traffic] = field(default_factory=dict)
    """Addresses that may go out, and what they moved."""
    repaired: tuple[str, ...] = ()
    """What had gone and was made again just now, in words, such as ``the bridge`` or ``the table inet banger0``; empty when all was there."""
    warnings: tuple[str, ...] = ()
    """What keeps it from working as it should although nothing of ours is missing, one line each (a firewall that drops what is forwarded, ...)."""
