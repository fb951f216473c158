"""rtnetlink by hand, against the kernel that runs the tests."""

from __future__ import annotations

import errno
import struct

import pytest

from banger.host.links import Links
from banger.host.netlink import Netlink, attribute, attributes, nested


def test_attributes_are_padded_and_found_again() -> None:
    packed = attribute(3, b"abcde") + nested(18, attribute(1, b"x"))
    assert len(packed) % 4 == 0
    found = attributes(packed)
    assert found[3] == b"abcde"
    assert attributes(found[18]) == {1: b"x"}


def test_a_length_that_lies_ends() -> None:
    assert list(attributes(struct.pack("=HH", 0, 5) + struct.pack("=HH", 60000, 6))) == [5, 6]


def test_the_loopback() -> None:
    with Netlink() as netlink:
        links = Links(netlink)
        found = links.find("lo")
        assert found is not None
        assert (found.name, found.mac, found.master) == ("lo", "00:00:00:00:00:00", 0)
        assert found.index in {link.index for link in links.all()}
        assert all(route.network.prefixlen <= 32 for route in links.routes())
        assert [str(address.interface) for address in links.addresses() if address.index == found.index][:1] in ([], ["127.0.0.1/8"])
        assert links.find("no-such-link") is None


def test_the_kernels_refusal_is_an_error() -> None:
    with Netlink() as netlink, pytest.raises(OSError, match="o such device") as caught:
        Links(netlink).set_up(2**31 - 2)
    assert caught.value.errno == errno.ENODEV
