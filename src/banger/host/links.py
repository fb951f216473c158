"""Network links, addresses and routes of this network namespace, as rtnetlink tells and changes them.

Numbers of attributes: include/uapi/linux/{if_link,if_addr,rtnetlink,neighbour}.h.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Final

from .netlink import CREATE, EXCL, REPLACE, Netlink, attribute, attributes, nested

_NEWLINK, _DELLINK, _GETLINK, _NEWADDR, _DELADDR, _GETADDR, _GETROUTE, _NEWNEIGH = 16, 17, 18, 20, 21, 22, 26, 28
_IFINFO: Final = struct.Struct("=BxHiII")
_IFADDR: Final = struct.Struct("=BBBBI")
_RTMSG: Final = struct.Struct("=BBBBBBBBI")
_NDMSG: Final = struct.Struct("=BxxxiHBB")
_UP: Final = 1
_ADDRESS, _IFNAME, _MASTER, _LINKINFO, _IFALIAS, _GROUP = 1, 3, 10, 18, 20, 27
_INFO_KIND, _INFO_DATA, _INFO_SLAVE_KIND, _INFO_SLAVE_DATA = 1, 2, 4, 5
_TUN_OWNER: Final = 1
_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST = 1, 2, 4
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_TABLE = 1, 4, 5, 15
_TABLE_LOCAL, _UNICAST, _SCOPE_LINK = 255, 1, 253
_DEAD_ENDS: Final = {6: "blackhole", 7: "unreachable", 8: "prohibit"}
_NDA_LLADDR: Final = 2
_AF_BRIDGE: Final = 7
_NOARP, _NTF_MASTER = 0x40, 0x04
_ATTEMPTS: Final = 5

STP_STATE, MCAST_SNOOPING = 5, 23
"""Attributes of a bridge (IFLA_BR_*)."""
LEARNING, UNICAST_FLOOD, MCAST_FLOOD, ISOLATED = 8, 9, 27, 33
"""Attributes of a bridge's port (IFLA_BRPORT_*)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A network interface."""

    index: int
    name: str
    kind: str
    """``bridge``, ``tun`` (taps too), ``veth``, ...; "" for hardware."""
    alias: str
    master: int
    """Index of the bridge it is a port of; 0 for none."""
    up: bool
    mac: str
    owner: int | None
    """Uid that may open a tap; None for anybody, and for other kinds."""
    options: Mapping[int, bytes]
    """What is particular to its kind."""
    port: Mapping[int, bytes]
    """What is particular to a port of a bridge."""


@dataclass(frozen=True, slots=True)
class Route:
    """An IPv4 route, unicast or a dead end, but those to addresses of the host itself."""

    network: IPv4Network
    index: int
    """Its link; 0 when it has none, or several."""
    on_link: bool
    """Its addresses are neighbours, reached without a router."""
    dead_end: str = ""
    """``blackhole``, ``unreachable`` or ``prohibit``: it leads nowhere."""


@dataclass(frozen=True, slots=True)
class Address:
    """An IPv4 address of the host."""

    interface: IPv4Interface
    index: int


def text(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="replace")


def _number(value: bytes | None) -> int:
    return int.from_bytes(value[:4], "little") if value else 0


def _parse_link(body: bytes) -> Link:
    _, _, index, flags, _ = _IFINFO.unpack_from(body)
    found = attributes(body[_IFINFO.size :])
    info = attributes(found.get(_LINKINFO, b""))
    kind, options = text(info.get(_INFO_KIND, b"")), attributes(info.get(_INFO_DATA, b""))
    return Link(
        index=index,
        name=text(found.get(_IFNAME, b"")),
        kind=kind,
        alias=text(found.get(_IFALIAS, b"")),
        master=_number(found.get(_MASTER)),
        up=bool(flags & _UP),
        mac=found.get(_ADDRESS, b"").hex(":"),
        owner=_number(options[_TUN_OWNER]) if kind == "tun" and _TUN_OWNER in options else None,
        options=options,
        port=attributes(info.get(_INFO_SLAVE_DATA, b"")) if text(info.get(_INFO_SLAVE_KIND, b"")) == "bridge" else {},
    )


class Links:
    """The verbs. All raise OSError; each waits until the kernel has done it."""

    def __init__(self, netlink: Netlink) -> None:
        self._netlink = netlink

    def find(self, name: str) -> Link | None:
        """The link of that name."""
        try:
            return _parse_link(self._netlink.request(_GETLINK, _IFINFO.pack(0, 0, 0, 0, 0) + attribute(_IFNAME, name.encode() + b"\0")))
        except OSError as error:
            if error.errno == errno.ENODEV:
                return None
            raise

    def all(self) -> list[Link]:
        """Every link."""
        return [_parse_link(body) for body in self._dump(_GETLINK, _IFINFO.pack(0, 0, 0, 0, 0))]

    def make_bridge(self, name: str, mac: str, alias: str) -> None:
        """Make a bridge that is down, without spanning tree; its MAC stays when ports come and go."""
        options = nested(_INFO_DATA, attribute(STP_STATE, struct.pack("=I", 0)), attribute(MCAST_SNOOPING, b"\0"))
        info = nested(_LINKINFO, attribute(_INFO_KIND, b"bridge"), options)
        words = attribute(_IFNAME, name.encode() + b"\0") + attribute(_ADDRESS, bytes.fromhex(mac.replace(":", ""))) + info
        self._netlink.request(_NEWLINK, _IFINFO.pack(0, 0, 0, 0, 0) + words, CREATE | EXCL)
        made = self.find(name)
        assert made is not None
        self._change(made.index, attribute(_IFALIAS, alias.encode()))

    def set_alias(self, index: int, alias: str) -> None:
        """Give the link words for those who look at it."""
        self._change(index, attribute(_IFALIAS, alias.encode()))

    def set_bridge(self, index: int, mac: str) -> None:
        """What ``make_bridge`` gives a bridge, once more."""
        options = nested(_INFO_DATA, attribute(STP_STATE, struct.pack("=I", 0)), attribute(MCAST_SNOOPING, b"\0"))
        self._change(index, attribute(_ADDRESS, bytes.fromhex(mac.replace(":", ""))) + nested(_LINKINFO, attribute(_INFO_KIND, b"bridge"), options))

    def set_up(self, index: int) -> None:
        """Switch it on."""
        self._netlink.request(_NEWLINK, _IFINFO.pack(0, 0, index, _UP, _UP))

    def set_port(self, index: int, bridge: int, options: Mapping[int, bytes]) -> None:
        """Make the link a port of the bridge, with these options."""
        self._change(index, attribute(_MASTER, struct.pack("=I", bridge)))
        data = nested(_INFO_SLAVE_DATA, *(attribute(kind, value) for kind, value in options.items()))
        self._change(index, nested(_LINKINFO, attribute(_INFO_SLAVE_KIND, b"bridge"), data))

    def pin_forwarding(self, index: int, mac: str) -> None:
        """Have the bridge send frames for this MAC to this port, for good."""
        body = _NDMSG.pack(_AF_BRIDGE, index, _NOARP, _NTF_MASTER, 0)
        self._netlink.request(_NEWNEIGH, body + attribute(_NDA_LLADDR, bytes.fromhex(mac.replace(":", ""))), CREATE | REPLACE)

    def delete(self, indices: list[int], group: int) -> None:
        """Delete links that have that number of a group to themselves: the kernel waits once for all of them, and not 16 ms for each. Gone is success."""
        marked = 0
        for index in indices:
            try:
                self._change(index, attribute(_GROUP, struct.pack("=I", group)))
                marked += 1
            except OSError as error:
                if error.errno != errno.ENODEV:
                    raise
        if marked:
            try:
                self._netlink.request(_DELLINK, _IFINFO.pack(0, 0, 0, 0, 0) + attribute(_GROUP, struct.pack("=I", group)))
            except OSError as error:
                if error.errno != errno.ENODEV:
                    raise

    def addresses(self) -> list[Address]:
        """IPv4 addresses of the host."""
        found = []
        for body in self._dump(_GETADDR, _IFADDR.pack(socket.AF_INET, 0, 0, 0, 0)):
            family, prefix, _, _, index = _IFADDR.unpack_from(body)
            values = attributes(body[_IFADDR.size :])
            local = values.get(_IFA_LOCAL) or values.get(_IFA_ADDRESS)
            if family == socket.AF_INET and local:
                found.append(Address(IPv4Interface((local, prefix)), index))
        return found

    def add_address(self, index: int, interface: IPv4Interface) -> None:
        """Give the link an address. Success when it has it."""
        words = attribute(_IFA_LOCAL, interface.packed) + attribute(_IFA_ADDRESS, interface.packed)
        words += attribute(_IFA_BROADCAST, interface.network.broadcast_address.packed)
        self._netlink.request(_NEWADDR, _IFADDR.pack(socket.AF_INET, interface.network.prefixlen, 0, 0, index) + words, CREATE | REPLACE)

    def remove_address(self, index: int, interface: IPv4Interface) -> None:
        """Take an address away."""
        self._netlink.request(_DELADDR, _IFADDR.pack(socket.AF_INET, interface.network.prefixlen, 0, 0, index) + attribute(_IFA_LOCAL, interface.packed))

    def routes(self) -> list[Route]:
        """IPv4 routes of all tables but the local one: unicast, and those that lead nowhere."""
        found = []
        for body in self._dump(_GETROUTE, _RTMSG.pack(socket.AF_INET, 0, 0, 0, 0, 0, 0, 0, 0)):
            family, prefix, _, _, table, _, scope, kind, _ = _RTMSG.unpack_from(body)
            values = attributes(body[_RTMSG.size :])
            known = kind == _UNICAST or kind in _DEAD_ENDS
            if family == socket.AF_INET and known and (_number(values.get(_RTA_TABLE)) or table) != _TABLE_LOCAL:
                network = IPv4Network((IPv4Address(values.get(_RTA_DST, bytes(4))), prefix))
                on_link = kind == _UNICAST and scope == _SCOPE_LINK and _RTA_GATEWAY not in values
                found.append(Route(network, _number(values.get(_RTA_OIF)), on_link, _DEAD_ENDS.get(kind, "")))
        return found

    def _change(self, index: int, words: bytes) -> None:
        self._netlink.request(_NEWLINK, _IFINFO.pack(0, 0, index, 0, 0) + words)

    def _dump(self, message: int, body: bytes) -> list[bytes]:
        for _ in range(_ATTEMPTS - 1):
            try:
                return self._netlink.dump(message, body)
            except OSError as error:
                if error.errno != errno.EINTR:
                    raise
        return self._netlink.dump(message, body)
