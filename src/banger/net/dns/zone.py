"""What we answer for with authority: ``.vm``, and the addresses of the machines' subnet in ``in-addr.arpa``."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network
from typing import Final

from .message import IN, QUESTION_AT, Code, Query, Record, Type, write_answer, write_name

TOP: Final = b"vm"
TTL: Final = 5
"""Seconds that an address may be remembered: a name may be another machine's soon."""
NEGATIVE_TTL: Final = 1
"""The same of an absence: who asks too early asks again (RFC 2308 section 5)."""
_REVERSE: Final = (b"in-addr", b"arpa")
_REVERSE_LABELS: Final = 3
"""Of an address that a reverse zone has: zones are cut at whole bytes, ours at the third."""
_NOT_ASKED_HERE: Final = frozenset(range(249, 255))
"""TKEY, TSIG, IXFR, AXFR, MAILB, MAILA: what is no type of a record (RFC 6895 section 3.1)."""
_CONTACT: Final = write_name(b"nobody", b"invalid")
_REFRESH, _RETRY, _EXPIRE = 3600, 600, 86400


class Zone:
    """Names and addresses of machines, and the answers that follow from them."""

    def __init__(self, subnet: IPv4Network) -> None:
        self._subnet = subnet
        self._serial = 1
        self._addresses: dict[bytes, IPv4Address] = {}
        self._names: dict[IPv4Address, bytes] = {}

    def __len__(self) -> int:
        return len(self._addresses)

    def add(self, name: str, address: IPv4Address) -> None:
        """The machine ``name``, a DNS label in lower case, has this address now; what either meant before is forgotten."""
        self.remove(name)
        if (former := self._names.get(address)) is not None:
            del self._addresses[former]
        self._addresses[name.encode("ascii")] = address
        self._names[address] = name.encode("ascii")
        self._serial += 1

    def remove(self, name: str) -> None:
        """Nobody is called that any more; success when nobody was."""
        if (address := self._addresses.pop(name.encode("ascii"), None)) is not None:
            del self._names[address]
            self._serial += 1

    def replace(self, names: Mapping[str, IPv4Address]) -> None:
        """These are all there are."""
        self._addresses.clear()
        self._names.clear()
        for name, address in names.items():
            self.add(name, address)

    def answer(self, query: Query, *, recursion: bool = False) -> bytes | None:
        """The whole answer, or None when the name is not ours to answer for. ``recursion``: we would ask others for this client."""
        if query.edns is not None and query.edns.version != 0:
            return write_answer(query, Code.BADVERS, recursion=recursion)
        if query.cls != IN or query.type in _NOT_ASKED_HERE or query.type == Type.OPT:
            return write_answer(query, Code.REFUSED, recursion=recursion)
        if query.labels[-1:] == (TOP,):
            return self._forward(query, recursion=recursion)
        if query.labels[-2:] == _REVERSE:
            return self._reverse(query, recursion=recursion)
        return None

    def _forward(self, query: Query, *, recursion: bool) -> bytes:
        """``NAME.vm``, and whatever is put before it."""
        depth = len(query.labels) - 1
        if depth == 0:
            return self._found(query, (self._soa(query, 0),), Type.SOA, 0, recursion=recursion)
        address = self._addresses.get(query.labels[depth - 1])
        if address is None:
            return self._absent(query, Code.NXDOMAIN, depth, recursion=recursion)
        return self._found(query, (Record(0, Type.A, TTL, address.packed),), Type.A, depth, recursion=recursion)

    def _reverse(self, query: Query, *, recursion: bool) -> bytes | None:
        """``4.3.2.1.in-addr.arpa`` for an address of the subnet, what lies below it, and the inner names that have nothing but such addresses below them."""
        given = query.labels[-3::-1]
        network = _network(given[:4])
        if network is None or not network.subnet_of(self._subnet):
            return None
        depth = max(len(given) - _REVERSE_LABELS, 0)
        if len(given) < 4:
            return self._found(query, (self._soa(query, depth),), Type.SOA, depth, recursion=recursion)
        name = self._names.get(network.network_address)
        if name is None or len(given) > 4:
            return self._absent(query, Code.NXDOMAIN, depth, recursion=recursion)
        return self._found(query, (Record(0, Type.PTR, TTL, write_name(name, TOP)),), Type.PTR, depth, recursion=recursion)

    def _found(self, query: Query, records: tuple[Record, ...], kind: Type, depth: int, *, recursion: bool) -> bytes:
        """An existing name that has records of one type; asked for ANY, they are enough (RFC 8482 section 4.1)."""
        if query.type not in (kind, Type.ANY):
            return self._absent(query, Code.NOERROR, depth, recursion=recursion)
        return write_answer(query, Code.NOERROR, answers=records, authoritative=True, recursion=recursion)

    def _absent(self, query: Query, code: Code, depth: int, *, recursion: bool) -> bytes:
        """Neither error says how long it holds but by the zone's SOA (RFC 2308 section 3). ``depth``: labels before the zone's own."""
        return write_answer(query, code, authority=(self._soa(query, depth),), authoritative=True, recursion=recursion)

    def _soa(self, query: Query, depth: int) -> Record:
        """Of the zone that begins after ``depth`` labels; its server's name is its own."""
        server = (0xC000 | QUESTION_AT + sum(len(label) + 1 for label in query.labels[:depth])).to_bytes(2, "big")
        times = (self._serial, _REFRESH, _RETRY, _EXPIRE, NEGATIVE_TTL)
        return Record(depth, Type.SOA, NEGATIVE_TTL, server + _CONTACT + b"".join(number.to_bytes(4, "big") for number in times))


def _network(untrusted_labels: tuple[bytes, ...]) -> IPv4Network | None:
    """The network whose first bytes these labels are, in the order of an address; None when they are none, as with leading zeros."""
    numbers = [_byte(label) for label in untrusted_labels]
    if not numbers or None in numbers:
        return None
    return IPv4Network((bytes(number or 0 for number in numbers).ljust(4, b"\0"), 8 * len(numbers)))


def _byte(untrusted: bytes) -> int | None:
    number = int(untrusted) if untrusted.isdigit() and len(untrusted) <= 3 else 256
    return number if number < 256 and str(number).encode() == untrusted else None
