"""Who may talk to whom, with real packets: what is forbidden is shown to be possible once the rule is not there."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from banger.model.network import Traffic
from tests.net.lab import FAR, HOST, METADATA, NEAR, PORT, Guest, Lab, ask_tcp, lab, pings, server

REJECTED = "EHOSTUNREACH"  # what the kernel makes of ICMP "administratively prohibited"


@pytest.fixture(scope="module")
def guests(shared: Lab) -> tuple[Guest, Guest]:
    return shared.guest(2), shared.guest(3)


@pytest.fixture
def out(shared: Lab, guests: tuple[Guest, Guest]) -> Iterator[Guest]:
    """A guest with NAT."""
    shared.host.do(shared.network.set_nat({guests[0].address: True}))
    yield guests[0]
    shared.host.do(shared.network.set_nat({guests[0].address: False}))


@pytest.fixture(params=["0", "1"], ids=["plain", "br_netfilter"])
def bridged(shared: Lab, request: pytest.FixtureRequest) -> None:
    """With and without IP's rules applied to bridged frames as well, as Docker and Kubernetes have it."""
    shared.host.sh(f"echo {request.param} >/proc/sys/net/bridge/bridge-nf-call-iptables")


@pytest.mark.usefixtures("bridged")
def test_guest_and_host(shared: Lab, guests: tuple[Guest, Guest]) -> None:
    guest, gateway = guests[0], str(shared.plan.gateway)
    assert guest.pings(gateway)
    assert guest.tcp(gateway, 53) == guest.udp(gateway, 53) == guest.address
    assert guest.tcp(gateway, PORT) == guest.udp(gateway, PORT) == REJECTED
    assert guest.tcp(HOST, 53) == guest.tcp(HOST, PORT) == REJECTED
    assert not guest.pings(HOST)


@pytest.mark.usefixtures("bridged")
def test_host_reaches_guest_without_nat(shared: Lab, guests: tuple[Guest, Guest]) -> None:
    with server(guests[0].inside, PORT):
        assert shared.host.call(ask_tcp, guests[0].address, PORT) == str(shared.plan.gateway)
    assert pings(shared.host, guests[0].address)


@pytest.mark.usefixtures("bridged")
def test_nothing_goes_out_without_nat(guests: tuple[Guest, Guest]) -> None:
    assert guests[0].tcp(FAR) == guests[0].udp(FAR) == REJECTED
    assert not guests[0].pings(FAR)


@pytest.mark.usefixtures("bridged")
def test_nat_goes_out_as_the_host(out: Guest) -> None:
    assert out.tcp(FAR) == out.udp(FAR) == HOST
    assert out.pings(FAR)


def test_nat_is_for_its_address_alone(out: Guest, guests: tuple[Guest, Guest]) -> None:
    assert out.tcp(FAR) == HOST
    assert guests[1].tcp(FAR) == REJECTED


def test_neighbours_and_metadata_are_closed_even_with_nat(shared: Lab, out: Guest) -> None:
    assert out.tcp(NEAR) == out.udp(NEAR) == out.tcp(METADATA) == out.udp(METADATA) == REJECTED
    assert not out.pings(NEAR)
    table = shared.host.sh("nft list table inet banger0")
    try:
        shared.host.sh("nft flush set inet banger0 neighbours; nft -f -", stdin="insert rule inet banger0 from_guest ip daddr 169.254.169.254 accept")
        assert out.tcp(NEAR) == out.tcp(METADATA) == HOST, "the check above could not have failed"
    finally:
        assert shared.host.do(shared.network.ensure_network()).repaired == ("the table inet banger0",)
    assert out.tcp(NEAR) == out.tcp(METADATA) == REJECTED
    assert shared.host.sh("nft list table inet banger0").count("\n") == table.count("\n")


def test_nobody_outside_begins(shared: Lab, out: Guest) -> None:
    with server(out.inside, PORT):
        assert shared.outside.call(ask_tcp, out.address, PORT) == "timeout"
        shared.host.sh("nft insert rule inet banger0 to_guest accept; nft insert rule inet banger0 from_guest accept")
        try:
            assert shared.outside.call(ask_tcp, out.address, PORT) == NEAR, "the check above could not have failed"
        finally:
            shared.host.do(shared.network.ensure_network())
        assert shared.outside.call(ask_tcp, out.address, PORT) == "timeout"


@pytest.mark.usefixtures("bridged")
def test_guests_do_not_see_each_other(shared: Lab, guests: tuple[Guest, Guest]) -> None:
    one, other = guests
    shared.host.do(shared.network.set_nat({one.address: True, other.address: True}))
    try:
        assert not one.pings(other.address), "on their link"
        one.inside.sh(f"ip route add {other.address}/32 via {shared.plan.gateway}")
        assert not one.pings(other.address), "by the router"
    finally:
        one.inside.sh(f"ip route del {other.address}/32", check=False)
        shared.host.do(shared.network.set_nat({one.address: False, other.address: False}))


def test_guests_would_see_each_other(bare: Lab) -> None:
    """Both of isolation and rules must go before one guest reaches another."""
    bare.host.do(bare.network.ensure_network())
    one, other = bare.guest(2), bare.guest(3)
    bare.host.sh("nft flush ruleset; echo 0 >/proc/sys/net/bridge/bridge-nf-call-iptables")
    assert not one.pings(other.address), "ports are isolated"
    for slot in (2, 3):
        bare.host.sh(f"bridge link set dev banger0-{slot} isolated off; bridge link set dev banger0-{slot} flood on")
    assert one.pings(other.address)
    assert set(bare.host.do(bare.network.ensure_network()).repaired) >= {"the tap banger0-2", "the tap banger0-3"}
    assert not one.pings(other.address)


def test_losing_nat_cuts_what_is_connected(shared: Lab, out: Guest) -> None:
    def connect() -> socket.socket:
        made = socket.create_connection((FAR, PORT), timeout=1.5)
        assert made.recv(100).decode() == HOST
        return made

    with out.inside.call(connect) as connection:
        connection.sendall(b"before")
        assert connection.recv(100) == b"before"
        shared.host.do(shared.network.set_nat({out.address: False}))
        with pytest.raises(OSError, match=r"timed out|No route"):
            connection.sendall(b"after")
            connection.recv(100)
        shared.host.do(shared.network.set_nat({out.address: True}))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # so that nothing is sent again later
    assert out.tcp(FAR) == HOST


def test_counters_survive_what_others_do(shared: Lab, out: Guest, guests: tuple[Guest, Guest]) -> None:
    assert out.udp(FAR) == out.udp(FAR) == HOST
    before = shared.host.do(shared.network.inspect_network()).nat[out.address]
    assert before == Traffic(sent_packets=2, sent_bytes=2 * (28 + len("who am I")), received_packets=2, received_bytes=2 * (28 + len(HOST)))
    for nat in (True, False):
        shared.host.do(shared.network.set_nat({guests[1].address: nat}))
        shared.host.do(shared.network.set_nat({out.address: True}))
    shared.host.sh("nft delete table bridge banger0")
    shared.host.do(shared.network.ensure_network())
    assert shared.host.do(shared.network.inspect_network()).nat == {out.address: before}
    assert out.udp(FAR) == HOST
    after = shared.host.do(shared.network.inspect_network()).nat[out.address]
    assert (after.sent_packets, after.received_packets) == (before.sent_packets + 1, before.received_packets + 1)
    assert after.sent_bytes == before.sent_bytes + 28 + len("who am I")


def test_ipv6_is_closed(shared: Lab, guests: tuple[Guest, Guest]) -> None:
    guest = guests[0]
    guest.inside.sh("ip -6 address add fd00:86::2/64 dev eth0 nodad")
    shared.host.sh("echo 0 >/proc/sys/net/ipv6/conf/banger0/disable_ipv6; ip -6 address add fd00:86::1/64 dev banger0 nodad")
    try:
        assert not guest.pings("fd00:86::1")
        shared.host.sh("nft flush chain bridge banger0 guest_pins; nft flush chain bridge banger0 guest_output; nft flush chain inet banger0 guest_input")
        assert guest.pings("fd00:86::1"), "the check above could not have failed"
    finally:
        repaired = shared.host.do(shared.network.ensure_network()).repaired
        guest.inside.sh("ip -6 address del fd00:86::2/64 dev eth0")
    assert set(repaired) == {"the table inet banger0", "the table bridge banger0", "the settings of the bridge"}
    assert "inet6" not in shared.host.sh("ip address show dev banger0")


def test_spoofed_addresses_are_dropped(shared: Lab, guests: tuple[Guest, Guest]) -> None:
    guest, gateway = guests[0], str(shared.plan.gateway)
    guest.inside.sh("ip address add 172.30.86.77/24 dev eth0")
    assert not guest.pings(gateway, source="172.30.86.77")
    guest.inside.sh("ip address del 172.30.86.77/24 dev eth0; ip link set eth0 address 06:00:ac:1e:56:4d")
    assert not guest.pings(gateway)
    guest.inside.sh(f"ip link set eth0 address {shared.plan.mac(guest.slot)}; ip route replace default via {gateway}")
    assert guest.pings(gateway)


def test_spoofed_arp_is_dropped(shared: Lab, guests: tuple[Guest, Guest]) -> None:
    """No guest takes another's address, or the gateway's, by saying so."""
    guest, plan = guests[0], shared.plan
    own, other = plan.mac(guest.slot), plan.mac(9)
    for hardware, claimed in ((own, plan.address(9)), (other, plan.address(9)), (other, plan.address(guest.slot)), (own, plan.gateway)):
        guest.inside.call(say_arp, own, hardware, claimed.packed, plan.gateway.packed)
    guest.inside.call(say_arp, other, other, plan.address(9).packed, plan.gateway.packed)
    time.sleep(0.1)
    known = shared.host.sh("ip neighbour show dev banger0")
    assert str(plan.address(9)) not in known
    assert other not in known
    shared.host.sh("nft flush chain bridge banger0 guest_pins")
    guest.inside.call(say_arp, own, own, plan.address(9).packed, plan.gateway.packed)
    time.sleep(0.1)
    assert str(plan.address(9)) in shared.host.sh("ip neighbour show dev banger0"), "the check above could not have failed"
    shared.host.do(shared.network.ensure_network())
    shared.host.sh("ip neighbour flush dev banger0")


TAGS = [(0x8100, 0), (0x8100, 0xE000), (0x8100, 1), (0x8100, 5), (0x88A8, 0), (0x88A8, 5)]


def test_tagged_frames_are_dropped(shared: Lab, guests: tuple[Guest, Guest]) -> None:
    """The kernel takes the tag off before our rules see the frame: address and MAC are right then, and only the tag is not."""
    guest, plan = guests[0], shared.plan
    sent = {"plain": b"", "twice": struct.pack("!HHHH", 0x88A8, 5, 0x8100, 6)} | {f"{kind:x} {tag:x}": struct.pack("!HH", kind, tag) for kind, tag in TAGS}

    def seen() -> set[str]:
        with shared.host.call(listen_to, plan.bridge) as card:
            for word, tags in sent.items():
                guest.inside.call(say, bytes.fromhex(plan.mac(guest.slot).replace(":", "")), tags, plan.address(guest.slot).packed, word.encode())
            return heard(card)

    assert seen() == {"plain"}
    shared.host.sh("nft flush chain bridge banger0 guest_pins")
    try:
        assert seen() == sent.keys(), "the check above could not have failed"
    finally:
        shared.host.do(shared.network.ensure_network())
    assert seen() == {"plain"}


def listen_to(link: str) -> socket.socket:
    """All that arrives there."""
    card = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003))
    card.bind((link, 0x0003))
    card.settimeout(0.5)
    return card


def heard(card: socket.socket) -> set[str]:
    """Words of ``say`` that arrive."""
    words = set()
    with suppress(TimeoutError):
        while True:
            _, found, word = card.recv(2000).partition(MARK)
            words |= {word.decode()} if found else set()
    return words


MARK = b"banger says "


def say(source: bytes, tags: bytes, address: bytes, word: bytes) -> None:
    """An IPv4 packet to everybody (RFC 791, a protocol for experiments), in a frame with these tags (IEEE 802.1Q)."""
    body = MARK + word
    bare = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(body), 0, 0, 64, 253, 0, address, b"\xff" * 4)
    total = sum(struct.unpack("!10H", bare))
    header = bare[:10] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + bare[12:]
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as card:
        card.bind(("eth0", 0))
        card.send(b"\xff" * 6 + source + tags + b"\x08\x00" + header + body)


def test_reachable_is_an_exception() -> None:
    with lab(reachable=(f"{NEAR}/32",)) as found:
        found.host.do(found.network.ensure_network())
        guest = found.guest(2, nat=True)
        assert guest.tcp(NEAR) == HOST
        assert guest.tcp(METADATA) == REJECTED
        assert found.guest(3).tcp(NEAR) == REJECTED, "only with NAT"


def say_arp(frame_source: str, hardware: str, claimed: bytes, target: bytes) -> None:
    """An ARP request to everybody, RFC 826."""
    source, sender = (bytes.fromhex(mac.replace(":", "")) for mac in (frame_source, hardware))
    body = struct.pack("!HHBBH6s4s6s4s", 1, 0x0800, 6, 4, 1, sender, claimed, bytes(6), target)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as card:
        card.bind(("eth0", 0))
        card.send(b"\xff" * 6 + source + b"\x08\x06" + body)
