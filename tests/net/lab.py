"""A host with machines, made of network namespaces: taps of the real bridge whose frames go to a tap in the guest's namespace, and an outside."""

from __future__ import annotations

import errno
import os
import select
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field

from banger.helper.network.host_network import HostNetwork
from banger.host.tap import claim, open_device, open_tap
from banger.model.network import NetworkPlan, network_plan
from tests.net.namespaces import Namespace, namespace

FAR = "203.0.113.5"
"""A server behind a router."""
NEAR = "10.99.0.1"
"""The host's neighbour, which is that router."""
METADATA = "169.254.169.254"
HOST = "10.99.0.2"
PORT = 8000
_IP_PKTINFO = 8


@dataclass
class Guest:
    """A machine's side of a tap."""

    plan: NetworkPlan
    slot: int
    inside: Namespace

    @property
    def address(self) -> str:
        return str(self.plan.address(self.slot))

    def pings(self, address: str, *, source: str = "") -> bool:
        """It gets an answer to an echo request."""
        return pings(self.inside, address, source=source)

    def tcp(self, address: str, port: int = PORT) -> str:
        """Who the server says we are, or the name of the error."""
        return self.inside.call(ask_tcp, address, port)

    def udp(self, address: str, port: int = PORT) -> str:
        return self.inside.call(ask_udp, address, port)


def pings(inside: Namespace, address: str, *, source: str = "") -> bool:
    """One of two echo requests is answered."""
    words = f"-I {source}" if source else ""
    return " 0 received" not in inside.sh(f"ping -n -c 2 -i 0.3 -W 1 {words} {address} || echo ' 0 received'", check=False)


def ask_tcp(address: str, port: int) -> str:
    try:
        with socket.create_connection((address, port), timeout=1.5) as connection:
            return connection.recv(100).decode()
    except TimeoutError:
        return "timeout"
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, "?")


def ask_udp(address: str, port: int) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(1.5)
        try:
            asking.connect((address, port))
            asking.send(b"who am I")
            return asking.recv(100).decode()
        except TimeoutError:
            return "timeout"
        except OSError as error:
            return errno.errorcode.get(error.errno or 0, "?")


@dataclass
class Lab:
    """The host, its outside, and its guests."""

    host: Namespace
    outside: Namespace
    plan: NetworkPlan
    network: HostNetwork
    stack: ExitStack
    guests: dict[int, Guest] = field(default_factory=dict)

    def guest(self, slot: int, *, nat: bool = False) -> Guest:
        """A machine in that slot: attached, and up with its address."""
        self.host.do(self.network.attach_tap(f"vm{slot}", slot, nat=nat))
        if slot not in self.guests:
            inside = self.stack.enter_context(namespace(f"g{slot}"))
            self.stack.enter_context(wired(self.host, self.plan.tap(slot), inside))
            inside.sh(
                f"ip link set eth0 address {self.plan.mac(slot)} up; ip address add {self.plan.address(slot)}/{self.plan.subnet.prefixlen} dev eth0;"
                f"ip route add default via {self.plan.gateway}"
            )
            self.guests[slot] = Guest(self.plan, slot, inside)
        return self.guests[slot]


@contextmanager
def lab(*, subnet: str = "172.30.86.0/24", reachable: tuple[str, ...] = ()) -> Iterator[Lab]:
    """A host whose network is not made yet, with a way out and servers out there."""
    with ExitStack() as stack:
        host, outside = stack.enter_context(namespace("host")), stack.enter_context(namespace("out"))
        host.sh(f"ip link add up0 type veth peer name down0 netns {outside.name}; ip address add {HOST}/24 dev up0; ip link set up0 up")
        outside.sh(f"ip address add {NEAR}/24 dev down0; ip link set down0 up; ip address add {FAR}/32 dev lo; ip address add {METADATA}/32 dev lo")
        host.sh(f"ip route add default via {NEAR}; echo 0 >/proc/sys/net/ipv4/icmp_ratelimit")  # so that each refusal is told
        plan = network_plan("banger0", subnet)
        outside.sh(f"ip route add {plan.subnet} via {HOST}")
        for place in (host, outside):
            for port in (53, PORT):
                stack.enter_context(server(place, port))
        yield Lab(host, outside, plan, HostNetwork(plan, reachable=reachable), stack)


@contextmanager
def server(place: Namespace, port: int) -> Iterator[None]:
    """Tells whoever connects, or sends a datagram, the address that they come from; what is sent on a connection comes back."""
    listening = place.call(_listen, port)
    datagrams = place.call(_bind, port)
    done, ended = os.pipe()
    thread = threading.Thread(target=_serve, args=(listening, datagrams, done))
    thread.start()
    try:
        yield
    finally:
        os.close(ended)
        thread.join()
        os.close(done)


def _listen(port: int) -> socket.socket:
    return socket.create_server(("0.0.0.0", port))


def _bind(port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
    made.bind(("0.0.0.0", port))
    return made


def _serve(listening: socket.socket, datagrams: socket.socket, done: int) -> None:
    with ExitStack() as stack:
        stack.enter_context(listening)
        stack.enter_context(datagrams)
        open_ones: dict[int, socket.socket] = {}
        while True:
            watched: list[socket.socket | int] = [listening, datagrams, done, *open_ones.values()]
            ready, _, _ = select.select(watched, [], [])
            if done in ready:
                for connection in open_ones.values():
                    connection.close()
                return
            for source in ready:
                if source is listening:
                    connection, peer = listening.accept()
                    open_ones[connection.fileno()] = connection
                    connection.sendall(peer[0].encode())
                elif source is datagrams:
                    _answer(datagrams)
                elif isinstance(source, socket.socket):
                    _echo(open_ones, source)


def _answer(datagrams: socket.socket) -> None:
    """From the address that was asked (ip(7), IP_PKTINFO), which routing would not choose."""
    _, ancillary, _, peer = datagrams.recvmsg(100, socket.CMSG_SPACE(12))
    asked = ancillary[0][2][4:8]
    with suppress(OSError):
        datagrams.sendmsg([peer[0].encode()], [(socket.IPPROTO_IP, _IP_PKTINFO, bytes(4) + asked + bytes(4))], 0, peer)


def _echo(open_ones: dict[int, socket.socket], connection: socket.socket) -> None:
    try:
        data = connection.recv(65536)
        if data:
            connection.sendall(data)
            return
    except OSError:
        pass
    del open_ones[connection.fileno()]
    connection.close()


@contextmanager
def wired(host: Namespace, tap: str, inside: Namespace) -> Iterator[None]:
    """A tap of the guest's, eth0, whose frames are those of the host's tap, as QEMU would do it."""
    outer, inner = host.call(open_tap, tap), inside.call(_card)
    done, ended = os.pipe()
    thread = threading.Thread(target=_pump, args=(outer, inner, done))
    thread.start()
    try:
        yield
    finally:
        os.close(ended)
        thread.join()
        for descriptor in (outer, inner, done):
            os.close(descriptor)


def _card() -> int:
    descriptor = open_device()
    claim(descriptor, "eth0")
    return descriptor


def _pump(outer: int, inner: int, done: int) -> None:
    while True:
        try:
            ready, _, _ = select.select([outer, inner, done], [], [])
            if done in ready:
                return
            for source, sink in ((outer, inner), (inner, outer)):
                if source in ready:
                    os.write(sink, os.read(source, 65536))
        except OSError as error:
            if error.errno == errno.EBADFD:  # the host's tap has been deleted
                return
            # EIO: the other side is down; EAGAIN: nothing after all
