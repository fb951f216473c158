"""Ports for UDP and TCP at once, and who has them otherwise."""

from __future__ import annotations

import os
import socket
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from banger.host.bound_ports import bind_pair, port_holder
from banger.model.errors import AlreadyExists

LOOPBACK = IPv4Address("127.0.0.1")
US = f"{Path('/proc/self/comm').read_text().strip()} (pid {os.getpid()})"


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])
@pytest.mark.parametrize(("kind", "protocol"), [(socket.SOCK_DGRAM, "udp"), (socket.SOCK_STREAM, "tcp")])
def test_a_port_that_is_taken(kind: socket.SocketKind, protocol: str, address: str) -> None:
    with socket.socket(socket.AF_INET, kind) as holder:
        holder.bind((address, 0))
        if kind == socket.SOCK_STREAM:
            holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(AlreadyExists) as refused:
            bind_pair(LOOPBACK, port, remedy="stop it")
        assert (refused.value.message, refused.value.hint) == (f"{protocol} port {port} of 127.0.0.1 is held by {US}", "stop it")


def test_a_port_that_a_socket_for_both_families_has() -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as holder:
        holder.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        holder.bind(("::", 0))
        assert port_holder("udp", LOOPBACK, holder.getsockname()[1]) == US


def test_an_address_that_the_host_does_not_have_yet() -> None:
    """The bridge may be made later."""
    pair = bind_pair(IPv4Address("198.51.100.77"), 0)
    assert [sock.getsockname()[0] for sock in pair] == ["198.51.100.77"] * 2
    for sock in pair:
        assert not sock.getblocking()
        sock.close()
