"""User-mode network: out, and not into the host's loopback."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.e2e.instance import Instance

pytestmark = pytest.mark.timeout(200)

CONNECT = """
import socket, sys
try:
    with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=3) as peer:
        print(peer.recv(100).decode() or "closed")
except OSError as error:
    print("refused", type(error).__name__)
"""


@pytest.fixture(scope="module")
def online(instance: Instance) -> Iterator[str]:
    """Name of a running machine with a network card."""
    name = f"online-{os.urandom(3).hex()}"
    instance.ok("vm", "run", "-d", "--nat", "--name", name, "--wait", "booted")
    vm_id = instance.json("vm", "show", name)["record"]["id"]
    instance.kept.add(vm_id)
    yield name
    instance.kept.discard(vm_id)
    instance.ok("vm", "delete", name)


class Listener:
    """A TCP server that greets and counts whoever comes."""

    def __init__(self, address: str, family: socket.AddressFamily = socket.AF_INET) -> None:
        self.socket = socket.create_server((address, 0), family=family)
        self.port: int = self.socket.getsockname()[1]
        self.visits = 0
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self.socket.accept()
            except OSError:
                return
            self.visits += 1
            with peer:
                peer.sendall(b"greetings")

    def close(self) -> None:
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        self.thread.join()


@contextmanager
def listening(address: str, family: socket.AddressFamily = socket.AF_INET) -> Iterator[Listener]:
    listener = Listener(address, family)
    try:
        yield listener
    finally:
        listener.close()


def host_address() -> str | None:
    """An address of this host other than loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            return None
        address: str = probe.getsockname()[0]
    return None if address.startswith("127.") else address


def guest_connects(instance: Instance, name: str, address: str, port: int) -> str:
    return instance.ok("vm", "exec", name, "--", "python3", "-c", CONNECT, address, str(port)).strip()


def gateway(instance: Instance, name: str) -> str:
    return instance.ok("vm", "exec", name, "--", "sh", "-c", "ip route show default | cut -d' ' -f3").strip()


def test_one_card_with_an_address_and_a_route(instance: Instance, online: str) -> None:
    cards = instance.ok("vm", "exec", online, "--", "ls", "/sys/class/net").split()
    assert len(cards) == 2
    assert gateway(instance, online)


def test_the_network_stays_up_after_the_boot(instance: Instance, online: str) -> None:
    """systemd must not take the address away that the guest program gave."""
    shown = instance.ok("vm", "exec", online, "--", "ip", "-4", "-o", "addr", "show", "scope", "global")
    assert "inet " in shown


def test_hosts_loopback_is_out_of_reach(instance: Instance, online: str) -> None:
    with listening("127.0.0.1") as listener:
        with socket.create_connection(("127.0.0.1", listener.port)) as peer:
            assert peer.recv(100) == b"greetings"  # it does listen
        for address in filter(None, (gateway(instance, online), host_address(), "127.0.0.1", "169.254.1.1", "169.254.2.2")):
            assert guest_connects(instance, online, address, listener.port).startswith("refused"), address
        assert listener.visits == 1


def test_a_guest_that_routes_loopback_outwards_is_stopped_too(instance: Instance) -> None:
    """Root in the guest can make its kernel send frames to 127.0.0.1; passt alone would connect to the host's."""
    turn = """
        set -e
        card=$(ls /sys/class/net | grep -v lo)
        address=$(ip -4 -o addr show dev $card | awk '{print $4}' | cut -d/ -f1)
        gateway=$(ip route show default | cut -d' ' -f3)
        echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet
        echo 0 > /proc/sys/net/ipv4/conf/all/rp_filter
        ip addr flush dev lo
        ip route flush table local dev lo
        ip route add 127.0.0.0/8 via $gateway dev $card src $address
        ip route get 127.0.0.1
    """
    with listening("127.0.0.1") as listener:
        script = f"{turn}\npython3 -c '{CONNECT}' 127.0.0.1 {listener.port}"
        # Booted, for systemd brings the loopback up, and with it the routes that are removed here.
        out = instance.ok("vm", "run", "--rm", "--nat", "--wait", "booted", "--", "sh", "-c", script)
        assert "via" in out, "the guest does send it out"
        assert "refused" in out
        assert listener.visits == 0


def test_hosts_ipv6_loopback_is_out_of_reach(instance: Instance, online: str) -> None:
    with listening("::1", socket.AF_INET6) as listener:
        for address in (gateway(instance, online), "::1", "fe80::1"):
            assert guest_connects(instance, online, address, listener.port).startswith("refused"), address
        assert listener.visits == 0


def test_hosts_udp_loopback_is_out_of_reach(instance: Instance, online: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.settimeout(2)
        send = "import socket, sys; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', (sys.argv[1], int(sys.argv[2])))"
        instance.ok("vm", "exec", online, "--", "python3", "-c", send, gateway(instance, online), str(listener.getsockname()[1]))
        with pytest.raises(TimeoutError):
            listener.recv(10)


def test_the_outside_is_in_reach(instance: Instance, online: str) -> None:
    address = host_address()
    if address is None:
        pytest.skip("this host has no address but loopback")
    with listening(address) as listener:
        assert guest_connects(instance, online, address, listener.port) == "greetings"


def test_names_resolve_as_on_the_host(instance: Instance, online: str) -> None:
    try:
        expected = socket.gethostbyname("deb.debian.org")
    except OSError:
        pytest.skip("this host resolves no outside names")
    assert expected
    assert instance.ok("vm", "exec", online, "--", "getent", "ahostsv4", "deb.debian.org").split()


def test_the_card_survives_stop_and_start(instance: Instance, online: str) -> None:
    instance.ok("vm", "restart", online)
    assert gateway(instance, online)


def cards(instance: Instance, name: str) -> list[str]:
    return instance.ok("vm", "exec", name, "--", "ls", "/sys/class/net").split()


def shown_network(instance: Instance, name: str) -> str:
    return next(line.split(None, 1)[1] for line in instance.ok("vm", "show", name).splitlines() if line.startswith("network "))


def test_the_network_of_a_running_machine_is_cut_and_restored(instance: Instance, online: str) -> None:
    address = host_address()
    if address is None:
        pytest.skip("this host has no address but loopback")
    with listening(address) as listener:

        def connects() -> bool:
            return guest_connects(instance, online, address, listener.port) == "greetings"

        before = instance.json("vm", "show", online)["pid"]
        assert connects()
        instance.ok("vm", "set", online, "--no-nat")
        assert not connects()
        assert shown_network(instance, online).endswith(", cut off (--no-nat)")
        instance.ok("daemon", "stop")
        assert not connects(), "the next daemon leaves it cut off"
        assert listener.visits == 1
        instance.ok("vm", "set", online, "--nat")
        assert connects(), "the card kept its address, its route and its helper"
        assert "cut off" not in shown_network(instance, online)
        assert instance.json("vm", "show", online)["pid"] == before


def test_what_was_set_while_it_ran_holds_for_the_next_start(instance: Instance, online: str) -> None:
    instance.ok("vm", "set", online, "--no-nat")
    instance.ok("vm", "restart", online)
    assert cards(instance, online) == ["lo"]
    refused = instance.run("vm", "set", online, "--nat")
    assert (refused.status, "was started without a network card" in refused.err) == (1, True)
    assert f"hint: banger vm stop {online}; banger vm set {online} --nat; banger vm start {online}" in refused.err
    for words in (("stop", online), ("set", online, "--nat"), ("start", online)):
        instance.ok("vm", *words)
    assert len(cards(instance, online)) == 2
    assert gateway(instance, online)
