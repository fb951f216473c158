"""The network made, found, repaired and removed; what is in the way; many at once."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest

from banger.helper.network.host_network import HostNetwork
from banger.host.tap import make_tap, open_tap
from banger.model.errors import BadRequest, CommandFailed, MissingTool, NotFound
from banger.model.network import NetworkState, network_plan
from tests.net.cycles import cycles_leave_nothing
from tests.net.lab import FAR, HOST, Lab
from tests.net.namespaces import processes_started


def everything(found: Lab) -> tuple[list[str], str, str, str]:
    """What a host shows of its network; counters and numbers of links left out."""
    names = [link["ifname"] for link in json.loads(found.host.sh("ip -j link"))]
    sysctl = found.host.sh("cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv4/conf/*/forwarding")
    return names, found.host.sh("ip -br address; ip route show table all"), found.host.sh("nft list ruleset"), sysctl


def ensure(found: Lab) -> NetworkState:
    return found.host.do(found.network.ensure_network())


def test_making_twice_changes_nothing_and_removing_leaves_nothing(bare: Lab) -> None:
    bare.host.sh("nft 'add table ip other; add chain ip other c { type filter hook forward priority 0; }; add rule ip other c counter accept'")
    before = everything(bare)
    state = ensure(bare)
    assert (state.repaired, state.warnings, state.taps) == ((), (), ())
    bare.host.do(bare.network.attach_tap("vm", 2, nat=True))
    bare.host.do(bare.network.warm_taps([3, 4]))
    made = everything(bare)
    assert ensure(bare).repaired == ()
    assert ensure(as_new_process(bare)).taps == (2, 3, 4)
    assert everything(bare) == made
    bare.host.do(bare.network.remove_network())
    assert everything(bare) == before
    bare.host.do(bare.network.remove_network())
    assert everything(bare) == before


def as_new_process(found: Lab) -> Lab:
    """The same host as a new process of ours finds it."""
    return Lab(found.host, found.outside, found.plan, HostNetwork(found.plan), found.stack)


def test_forwarding_that_was_on_stays(bare: Lab) -> None:
    bare.host.sh("echo 1 >/proc/sys/net/ipv4/ip_forward")
    ensure(bare)
    bare.host.do(as_new_process(bare).network.remove_network())
    assert bare.host.sh("cat /proc/sys/net/ipv4/ip_forward") == "1\n"


def test_what_others_remove_is_put_back(bare: Lab) -> None:
    """A running machine works again, without anything done to it."""
    ensure(bare)
    guest = bare.guest(2, nat=True)
    assert guest.tcp(FAR) == HOST
    for damage, words in (
        ("nft flush ruleset", {"the table inet banger0", "the table bridge banger0"}),
        ("nft flush chain inet banger0 guest_nat", {"the table inet banger0"}),
        ("ip link del banger0", {"the bridge", "the tap banger0-2"}),
        ("ip link set banger0 down", {"the bridge's state"}),
        ("ip address flush dev banger0", {"the bridge's address"}),
        ("ip link set banger0-2 nomaster", {"the tap banger0-2"}),
        ("ip link set banger0-2 down", {"the tap banger0-2"}),
        ("bridge link set dev banger0-2 isolated off", {"the tap banger0-2"}),
        ("echo 0 >/proc/sys/net/ipv4/ip_forward", {"forwarding"}),
    ):
        bare.host.sh(damage)
        assert set(ensure(bare).repaired) == words, damage
        assert guest.tcp(FAR) == HOST, damage
        assert ensure(bare).repaired == (), damage


def test_an_attach_repairs_too_and_the_next_look_tells(bare: Lab) -> None:
    ensure(bare)
    guest = bare.guest(2, nat=True)
    bare.host.sh("nft flush ruleset; ip link del banger0")

    async def attach() -> None:
        await asyncio.gather(*(bare.network.attach_tap("other", slot, nat=False) for slot in range(3, 9)))

    bare.host.do(attach())
    assert guest.tcp(FAR) == HOST
    assert set(ensure(bare).repaired) == {"the bridge", "the tap banger0-2", "the table inet banger0", "the table bridge banger0"}
    bare.host.sh("nft flush ruleset")
    bare.host.do(bare.network.set_nat({str(bare.plan.address(3)): True}))
    assert set(ensure(bare).nat) == {str(bare.plan.address(2)), str(bare.plan.address(3))}


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("ip link add banger0 type bridge", "banger0 exists and is not ours"),
        ("ip link add banger0 type veth peer name other0; ip link set banger0 alias banger", "banger0 exists and is not ours"),
        ("ip route add 172.30.80.0/20 via 10.99.0.1", "overlaps the route to 172.30.80.0/20 by up0"),
        ("ip route add 172.30.86.128/25 via 10.99.0.1", "overlaps the route to 172.30.86.128/25 by up0"),
        ("ip route add unreachable 172.30.86.0/24", "overlaps the unreachable route to 172.30.86.0/24"),
        ("ip route add blackhole 172.30.80.0/20", "overlaps the blackhole route to 172.30.80.0/20"),
        ("ip route add prohibit 172.30.86.128/25", "overlaps the prohibit route to 172.30.86.128/25"),
        ("ip route add 172.30.86.0/24 nexthop via 10.99.0.1 nexthop via 10.99.0.7", "overlaps the route to 172.30.86.0/24 by several links"),
        ("ip address add 172.30.86.1/32 dev up0", "172.30.86.1, which is in the machines' subnet 172.30.86.0/24, is already an address of up0"),
        ("ip address add 172.30.86.9/24 dev lo", "172.30.86.9, which is in the machines' subnet 172.30.86.0/24, is already an address of lo"),
        ("nft add table inet banger0; nft add chain inet banger0 mine", "the nftables table inet banger0 is not ours"),
    ],
)
def test_what_is_in_the_way_is_refused_and_named(bare: Lab, damage: str, words: str) -> None:
    bare.host.sh(damage)
    before = everything(bare)
    with pytest.raises(BadRequest) as caught:
        ensure(bare)
    assert words in caught.value.message
    assert caught.value.hint
    assert everything(bare) == before
    bare.host.do(bare.network.remove_network())
    assert everything(bare) == before


def test_a_bridge_from_a_process_that_was_killed_is_ours(bare: Lab) -> None:
    """It has our MAC from the beginning, and the alias only after that; a tap has its owner a moment after it stays."""
    bare.host.sh(f"ip link add banger0 address {bare.plan.mac(1)} type bridge; ip tuntap add banger0-2 mode tap")
    assert ensure(bare).taps == (2,)
    assert bare.guest(2, nat=True).tcp(FAR) == HOST
    bare.host.do(as_new_process(bare).network.remove_network())
    assert bare.host.sh("cat /proc/sys/net/ipv4/ip_forward") == "0\n"


def test_an_overlap_that_comes_later_is_a_warning(bare: Lab) -> None:
    ensure(bare)
    bare.host.sh("ip route add 172.30.80.0/20 via 10.99.0.1")
    assert "overlaps the route to 172.30.80.0/20" in ensure(bare).warnings[0]
    assert "overlaps the route to 172.30.80.0/20" in bare.host.do(bare.network.inspect_network()).warnings[0]


def test_a_route_to_nowhere_that_comes_later_is_a_warning(bare: Lab) -> None:
    ensure(bare)
    bare.host.sh("ip route add prohibit 172.30.86.7/32")
    assert "overlaps the prohibit route to 172.30.86.7/32" in ensure(bare).warnings[0]
    assert "overlaps the prohibit route to 172.30.86.7/32" in bare.host.do(bare.network.inspect_network()).warnings[0]


def test_inspection_tells_what_is_missing_and_changes_nothing(bare: Lab) -> None:
    before = everything(bare)
    state = bare.host.do(bare.network.inspect_network())
    assert [warning.partition(" is missing")[0] for warning in state.warnings] == [
        "the bridge", "the table inet banger0", "the table bridge banger0", "forwarding",
    ]  # fmt: skip
    assert everything(bare) == before


def test_new_networks_of_the_host_are_closed_at_the_next_look(bare: Lab) -> None:
    ensure(bare)
    bare.host.sh("ip address add 10.77.0.1/16 dev up0")
    assert ensure(bare).repaired == ()
    assert "10.77.0.0/16" in bare.host.sh("nft list set inet banger0 neighbours")


def test_missing_nft_and_tun_name_the_remedy(bare: Lab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("banger.host.tap.DEVICE", str(tmp_path / "tun"))
        with pytest.raises(MissingTool) as caught:
            ensure(bare)
    assert "modprobe tun" in caught.value.hint
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))
        patch.setattr("banger.host.run.SEARCH_PATH", str(tmp_path))
        with pytest.raises(MissingTool) as caught:
            ensure(bare)
    assert caught.value.hint == "sudo apt-get install nftables"


def test_a_warm_tap_costs_no_process(bare: Lab) -> None:
    ensure(bare)
    bare.host.do(bare.network.warm_taps(range(2, 10)))

    async def attach() -> int:
        before = processes_started()
        for slot in range(2, 12):  # the last two are not even warm
            await bare.network.attach_tap("vm", slot, nat=False)
        return processes_started() - before

    assert bare.host.do(attach()) == 0
    with pytest.raises(BadRequest, match="too many"):
        bare.host.do(bare.network.warm_taps(range(2, 80)))
    with pytest.raises(BadRequest, match="no slot 1 "):
        bare.host.do(bare.network.attach_tap("vm", 1, nat=False))


def test_sixteen_at_once(bare: Lab) -> None:
    ensure(bare)
    slots = range(10, 26)

    async def attach() -> int:
        before = processes_started()
        await asyncio.gather(*(bare.network.attach_tap(f"vm{slot}", slot, nat=slot % 2 == 0) for slot in slots))
        return processes_started() - before

    assert bare.host.do(attach()) <= 4, "what is wanted meanwhile is one transaction"
    state = bare.host.do(bare.network.inspect_network())
    assert state.taps == tuple(slots)
    assert set(state.nat) == {str(bare.plan.address(slot)) for slot in slots if slot % 2 == 0}
    assert state.warnings == ()

    async def come_and_go() -> None:
        await asyncio.gather(bare.network.release_taps(list(slots), keep=False), *(bare.network.attach_tap("new", slot, nat=False) for slot in slots))

    bare.host.do(come_and_go())
    assert bare.host.do(bare.network.inspect_network()).nat == {}
    bare.host.do(bare.network.release_taps([*slots, 99, 4000], keep=False))
    assert bare.host.do(bare.network.inspect_network()).taps == ()
    bare.host.do(bare.network.release_taps(list(slots), keep=False))


def test_a_kept_tap_lost_its_nat_and_serves_the_next(bare: Lab) -> None:
    ensure(bare)
    guest = bare.guest(2, nat=True)
    assert guest.tcp(FAR) == HOST
    bare.host.do(bare.network.release_taps([2], keep=True))
    state = bare.host.do(bare.network.inspect_network())
    assert (state.taps, state.nat) == ((2,), {})
    assert guest.tcp(FAR) != HOST
    again = HostNetwork(bare.plan)  # a process that has not looked yet
    bare.host.do(again.release_taps([2], keep=True))
    bare.host.do(again.attach_tap("next", 2, nat=True))
    assert guest.tcp(FAR) == HOST


def test_a_machine_goes_although_nft_fails(bare: Lab, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Its address stays in the sets then, and the next machine that has it does not begin with it."""
    ensure(bare)
    bare.host.do(bare.network.attach_tap("vm", 2, nat=True))

    async def fail(text: str) -> None:
        raise CommandFailed("nft: syntax error")

    with monkeypatch.context() as patch:
        patch.setattr("banger.helper.network.firewall.apply", fail)
        bare.host.do(bare.network.release_taps([2], keep=False))
    assert "NAT not ended" in caplog.text
    assert bare.host.do(bare.network.inspect_network()).taps == ()
    bare.host.do(bare.network.attach_tap("next", 2, nat=False))
    assert bare.host.do(bare.network.inspect_network()).nat == {}


def test_taps_belong_to_the_daemon(bare: Lab) -> None:
    network = HostNetwork(bare.plan, tap_owner=54321)
    bare.host.do(network.ensure_network())
    bare.host.do(network.attach_tap("vm", 2, nat=False))
    assert bare.host.sh("cat /sys/class/net/banger0-2/owner") == "54321\n"
    ensure(bare)
    assert bare.host.sh("cat /sys/class/net/banger0-2/owner") == f"{os.getuid()}\n"


def test_opening_taps(bare: Lab) -> None:
    ensure(bare)
    bare.host.do(bare.network.warm_taps([2]))
    with pytest.raises(NotFound):
        bare.host.call(open_tap, "banger0-3")
    with pytest.raises(CommandFailed, match="no tap"):
        bare.host.call(open_tap, "up0")
    descriptor = bare.host.call(open_tap, "banger0-2")
    try:
        with pytest.raises(CommandFailed, match="in use"):
            bare.host.call(open_tap, "banger0-2")
        with pytest.raises(CommandFailed, match="in use"):
            bare.host.call(make_tap, "banger0-2", 0)
    finally:
        os.close(descriptor)
    bare.host.sh("ip link add banger0-5 type veth peer name other0")
    with pytest.raises(BadRequest, match="banger0-5 exists"):
        bare.host.do(bare.network.attach_tap("vm", 5, nat=False))


def test_two_networks_side_by_side(bare: Lab) -> None:
    """Another bridge of ours is a neighbour: its machines are closed to these."""
    other = HostNetwork(network_plan("lab", "10.50.0.0/16"))
    ensure(bare)
    bare.host.do(other.ensure_network())
    ensure(bare)
    assert "10.50.0.0/16" in bare.host.sh("nft list set inet banger0 neighbours")
    bare.host.do(other.remove_network())
    assert bare.host.sh("cat /proc/sys/net/ipv4/ip_forward") == "1\n"
    assert ensure(bare).repaired == ()


DOCKER = """
    iptables -P FORWARD DROP; iptables -N DOCKER-USER; iptables -A DOCKER-USER -j RETURN; iptables -I FORWARD -j DOCKER-USER
"""


def test_docker_is_joined_and_left(bare: Lab) -> None:
    bare.host.sh(DOCKER)
    rules = bare.host.sh("iptables -S")
    assert ensure(bare).warnings == ()
    guest = bare.guest(2, nat=True)
    assert guest.tcp(FAR) == HOST
    assert ensure(bare).repaired == ()
    bare.host.sh("iptables -F DOCKER-USER")
    assert guest.tcp(FAR) == "timeout"
    assert ensure(bare).repaired == ("the rules in Docker's chain",)
    assert guest.tcp(FAR) == HOST
    bare.host.sh("iptables -A DOCKER-USER -j RETURN")
    bare.host.do(bare.network.remove_network())
    assert bare.host.sh("iptables -S") == rules
    assert bare.host.sh("cat /proc/sys/net/ipv4/ip_forward") == "1\n", "Docker relies on it"


_CHAIN = "nft 'add table inet mine; add chain inet mine f { type filter hook forward priority 0; }'"


@pytest.mark.parametrize(
    "damage", ["iptables -P FORWARD DROP", f"{_CHAIN}; nft add chain inet mine f '{{ policy drop; }}'", f"{_CHAIN}; nft add rule inet mine f counter reject"]
)
def test_the_remedy_for_another_firewall_works(bare: Lab, damage: str) -> None:
    bare.host.sh(damage)
    (warning,) = ensure(bare).warnings
    guest = bare.guest(2, nat=True)
    assert guest.tcp(FAR) != HOST
    bare.host.sh(warning.partition(": ")[2].replace("sudo ", ""))
    assert guest.tcp(FAR) == HOST
    assert ensure(bare).warnings == ()


_INPUT = "nft 'add table inet mine; add chain inet mine i { type filter hook input priority 0; policy drop; }; add rule inet mine i iifname lo accept'"


@pytest.mark.parametrize("damage", ["iptables -P INPUT DROP", f"{DOCKER.strip()}; iptables -P INPUT DROP", _INPUT], ids=["iptables", "Docker", "nft"])
def test_input_that_is_dropped_is_told(bare: Lab, damage: str) -> None:
    bare.host.sh(damage)
    (warning,) = ensure(bare).warnings
    assert "what machines ask the host's DNS: sudo " in warning
    assert bare.host.do(bare.network.inspect_network()).warnings == (warning,)
    guest, gateway = bare.guest(2), str(bare.plan.gateway)
    assert guest.udp(gateway, 53) == "timeout"
    bare.host.sh(warning.partition(": ")[2].replace("sudo ", ""))
    assert guest.udp(gateway, 53) == guest.tcp(gateway, 53) == guest.address
    assert ensure(bare).warnings == ()


def test_cycles_leave_nothing(bare: Lab) -> None:
    """A thousand of them are in tests/soak."""
    cycles_leave_nothing(bare, 40)
