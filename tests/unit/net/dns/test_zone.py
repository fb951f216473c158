"""What the server says to every kind of question, read by another's decoder."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from banger.net.dns.message import Query, write_name
from banger.net.dns.responder import Responder
from banger.net.dns.zone import Zone
from tests.unit.net.dns.oracle import code, data, parsed, question

HOST = "127.0.0.1"
SEVEN_BITS = bytes(number if number < 128 else ord("x") for number in range(256))
"""dnslib reads no other names (RFC 2181 section 11 allows them)."""


def zone_of(subnet: str = "172.30.86.0/24", **names: str) -> Zone:
    zone = Zone(IPv4Network(subnet))
    zone.replace({name: IPv4Address(address) for name, address in names.items()})
    return zone


@pytest.fixture
def face() -> Responder:
    return Responder(zone_of(box="172.30.86.2", other="172.30.86.3"))


@pytest.mark.parametrize("name", ["box.vm", "www.box.vm", "a.b.c.box.vm", "_sip._tcp.box.vm", "*.box.vm"])
def test_a_machine_and_all_below_it_have_its_address(face: Responder, name: str) -> None:
    answer = parsed(face.answer(question(name), HOST))
    assert (answer.header.aa, answer.header.ra, answer.header.rd, answer.header.tc) == (1, 0, 1, 0)
    assert [str(record.rdata) for record in answer.rr] == ["172.30.86.2"]
    assert [str(record.rname) for record in answer.rr] == [f"{name}."]
    assert [record.ttl for record in answer.rr] == [5]


def test_the_case_of_the_question_is_kept(face: Responder) -> None:
    asked = question("wWw.BoX.vM")
    answer = face.answer(asked, HOST)
    assert isinstance(answer, bytes)
    assert answer[12 : len(asked)] == asked[12:]
    assert data(answer) == ["172.30.86.2"]


@pytest.mark.parametrize("kind", ["AAAA", "TXT", "MX", "NS", "SRV", "HTTPS", "SOA", "CNAME"])
def test_a_machine_has_nothing_but_an_address(face: Responder, kind: str) -> None:
    answer = parsed(face.answer(question("www.box.vm", kind), HOST))
    assert (answer.header.rcode, answer.header.aa, answer.rr) == (0, 1, [])
    (soa,) = answer.auth
    assert (str(soa.rname), soa.rtype, soa.ttl, soa.rdata.times[4]) == ("vm.", 6, 1, 1)


@pytest.mark.parametrize("name", ["nobody.vm", "x.nobody.vm", "doctor-probe-not-a-real-vm.vm", "box-.vm"])
def test_who_is_not_there_is_denied_with_authority(face: Responder, name: str) -> None:
    answer = parsed(face.answer(question(name), HOST))
    assert (answer.header.rcode, answer.header.aa) == (3, 1)
    assert [str(record.rname) for record in answer.auth] == ["vm."]


def test_a_label_with_a_dot_is_no_two_labels(face: Responder) -> None:
    asked = struct.pack("!6H", 1, 0, 1, 0, 0, 0) + write_name(b"x.box", b"vm") + b"\0\1\0\1"
    assert code(face.answer(asked, HOST)) == "NXDOMAIN"
    asked = struct.pack("!6H", 1, 0, 1, 0, 0, 0) + write_name(b"box.vm") + b"\0\1\0\1"
    assert code(face.answer(asked, HOST)) == "REFUSED"


def test_the_zone_itself(face: Responder) -> None:
    assert [str(record.rname) for record in parsed(face.answer(question("vm", "SOA"), HOST)).rr] == ["vm."]
    assert data(face.answer(question("vm", "A"), HOST)) == []
    assert code(face.answer(question("vm", "A"), HOST)) == "NOERROR"
    assert data(face.answer(question("box.vm", "ANY"), HOST)) == ["172.30.86.2"]


def test_addresses_have_names(face: Responder) -> None:
    assert data(face.answer(question("2.86.30.172.In-Addr.ARPA", "PTR"), HOST)) == ["box.vm."]
    absent = parsed(face.answer(question("9.86.30.172.in-addr.arpa", "PTR"), HOST))
    assert (absent.header.rcode, [str(record.rname) for record in absent.auth]) == (3, ["86.30.172.in-addr.arpa."])
    inner = parsed(face.answer(question("86.30.172.in-addr.arpa", "PTR"), HOST))
    assert (inner.header.rcode, inner.rr, [str(record.rname) for record in inner.auth]) == (0, [], ["86.30.172.in-addr.arpa."])
    assert data(face.answer(question("2.86.30.172.in-addr.arpa", "A"), HOST)) == []
    assert code(face.answer(question("x.2.86.30.172.in-addr.arpa", "PTR"), HOST)) == "NXDOMAIN"


@pytest.mark.parametrize("name", ["2.87.30.172.in-addr.arpa", "30.172.in-addr.arpa", "in-addr.arpa", "002.86.30.172.in-addr.arpa", "x.86.30.172.in-addr.arpa"])
def test_other_addresses_are_not_ours(face: Responder, name: str) -> None:
    answer = parsed(face.answer(question(name, "PTR"), HOST))
    assert (answer.header.rcode, answer.header.aa, answer.auth) == (5, 0, [])


def test_reverse_zones_of_other_sizes() -> None:
    wide = Responder(zone_of("172.16.0.0/16", far="172.16.9.200"))
    assert data(wide.answer(question("200.9.16.172.in-addr.arpa", "PTR"), HOST)) == ["far.vm."]
    assert code(wide.answer(question("16.172.in-addr.arpa", "SOA"), HOST)) == "NOERROR"
    small = Responder(zone_of("10.0.0.8/29", near="10.0.0.10"))
    assert data(small.answer(question("10.0.0.10.in-addr.arpa", "PTR"), HOST)) == ["near.vm."]
    assert code(small.answer(question("16.0.0.10.in-addr.arpa", "PTR"), HOST)) == "REFUSED"
    assert code(small.answer(question("0.0.10.in-addr.arpa", "PTR"), HOST)) == "REFUSED"


@pytest.mark.parametrize(
    ("name", "kind"), [("example.com", "A"), (".", "NS"), ("vm.example", "A"), ("box", "A"), ("vm", "AXFR"), ("box.vm", "IXFR"), ("box.vm", "TSIG")]
)
def test_all_else_is_refused(face: Responder, name: str, kind: str) -> None:
    assert code(face.answer(question(name, kind), HOST)) == "REFUSED"


def test_other_classes_and_operations(face: Responder) -> None:
    chaos = bytearray(question("box.vm"))
    chaos[-1] = 3
    assert code(face.answer(bytes(chaos), HOST)) == "REFUSED"
    for operation in (1, 2, 4, 5, 15):
        answer = parsed(face.answer(question("box.vm", opcode=operation), HOST))
        assert (answer.header.rcode, answer.header.opcode, answer.header.qr) == (4, operation, 1)


def test_edns(face: Responder) -> None:
    (option,) = parsed(face.answer(question("box.vm", edns=4096), HOST)).ar
    assert (option.edns_len, option.edns_ver, option.edns_rcode) == (1232, 0, 0)
    assert parsed(face.answer(question("box.vm"), HOST)).ar == []
    asked = question("box.vm")[:11] + b"\1" + question("box.vm")[12:] + b"\0" + struct.pack("!HHIH", 41, 1232, 1 << 16, 0)
    later = parsed(face.answer(asked, HOST))
    assert (later.header.rcode, later.ar[0].edns_rcode, later.rr) == (0, 1, [])  # BADVERS = 16
    secure = asked[:-6] + struct.pack("!IH", 0x8000, 0)
    assert parsed(face.answer(secure, HOST)).ar[0].edns_do == 1


def test_scraps_and_answers_get_nothing(face: Responder) -> None:
    for untrusted in (b"", b"x" * 11, question("box.vm", qr=1)):
        assert face.answer(untrusted, HOST) is None


@pytest.mark.parametrize(
    "untrusted",
    [
        struct.pack("!6H", 7, 0, 0, 0, 0, 0),
        struct.pack("!6H", 7, 0, 2, 0, 0, 0) + write_name(b"box", b"vm") * 2,
        struct.pack("!6H", 7, 0, 1, 1, 0, 0) + write_name(b"box", b"vm") + b"\0\1\0\1",
        struct.pack("!6H", 7, 0, 1, 0, 0, 65535) + write_name(b"box", b"vm") + b"\0\1\0\1",
        struct.pack("!6H", 7, 0, 1, 0, 0, 0) + b"\xc0\x0c\0\1\0\1",
        struct.pack("!6H", 7, 0, 1, 0, 0, 0) + b"\x3fbox",
        struct.pack("!6H", 7, 0, 1, 0, 0, 0) + write_name(*[b"x" * 63] * 4) + b"\0\1\0\1",
        struct.pack("!6H", 7, 0, 1, 0, 0, 0) + write_name(b"box", b"vm") + b"\0\1",
        struct.pack("!6H", 7, 0, 1, 0, 0, 0) + write_name(b"box", b"vm") + b"\0\1\0\1more",
        struct.pack("!6H", 7, 0, 1, 0, 0, 2) + write_name(b"box", b"vm") + b"\0\1\0\1" + (b"\0" + struct.pack("!HHIH", 41, 1232, 0, 0)) * 2,
        struct.pack("!6H", 7, 0, 1, 0, 0, 1) + write_name(b"box", b"vm") + b"\0\1\0\1" + b"\1x\0" + struct.pack("!HHIH", 41, 1232, 0, 0),
        struct.pack("!6H", 7, 0, 1, 0, 0, 1) + write_name(b"box", b"vm") + b"\0\1\0\1" + b"\0" + struct.pack("!HHIH", 41, 1232, 0, 60000),
    ],
)
def test_what_is_malformed_is_said_to_be(face: Responder, untrusted: bytes) -> None:
    answer = parsed(face.answer(untrusted, HOST))
    assert (answer.header.rcode, answer.header.id, answer.header.qr) == (1, 7, 1)


def test_names_come_and_go() -> None:
    zone = zone_of(a="172.30.86.2", b="172.30.86.3")
    face = Responder(zone)
    zone.add("c", IPv4Address("172.30.86.2"))
    assert code(face.answer(question("a.vm"), HOST)) == "NXDOMAIN"
    assert data(face.answer(question("2.86.30.172.in-addr.arpa", "PTR"), HOST)) == ["c.vm."]
    zone.add("c", IPv4Address("172.30.86.9"))
    assert code(face.answer(question("2.86.30.172.in-addr.arpa", "PTR"), HOST)) == "NXDOMAIN"
    zone.remove("c")
    zone.remove("c")
    assert code(face.answer(question("9.86.30.172.in-addr.arpa", "PTR"), HOST)) == "NXDOMAIN"
    assert len(zone) == 1


def test_who_asks_decides() -> None:
    class Nobody:
        async def ask(self, query: Query, source: str, *, stream: bool) -> bytes:
            raise AssertionError

    face = Responder(zone_of(box="172.30.86.2"), forwards=Nobody(), may_forward={"172.30.86.2"}.__contains__, admits=lambda source: source.startswith("172."))
    assert isinstance(face.answer(question("example.com"), "172.30.86.2"), Query)
    assert code(face.answer(question("example.com"), "172.30.86.3")) == "REFUSED"
    assert face.answer(question("box.vm"), "192.0.2.1") is None
    assert parsed(face.answer(question("box.vm"), "172.30.86.2")).header.ra == 1


@given(st.binary(max_size=600))
def test_whatever_comes_the_answer_can_be_read(untrusted: bytes) -> None:
    check(untrusted)


@given(
    st.sampled_from(["box.vm", "x.BOX.vm", "2.86.30.172.in-addr.arpa", "example.com"]), st.lists(st.tuples(st.integers(0, 80), st.integers(0, 255)), max_size=6)
)
def test_whatever_becomes_of_a_question_the_answer_can_be_read(name: str, changes: list[tuple[int, int]]) -> None:
    untrusted = bytearray(question(name, edns=4096))
    for at, value in changes:
        untrusted[at % len(untrusted)] = value
    check(bytes(untrusted))


def check(untrusted: bytes) -> None:
    answer = Responder(zone_of(box="172.30.86.2")).answer(untrusted, HOST)
    if answer is not None:
        assert isinstance(answer, bytes)
        end = 12
        while end < len(answer) and answer[end]:
            end += 1 + answer[end]
        read = parsed(answer[:12] + answer[12:end].translate(SEVEN_BITS) + answer[end:])
        assert len(answer) <= 512
        assert (read.header.id, read.header.qr) == (int.from_bytes(untrusted[:2], "big"), 1)
