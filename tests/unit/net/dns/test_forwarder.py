"""Questions passed on to a resolver that answers well, wrongly, too much, or not at all."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import dnslib  # type: ignore[import-untyped]
import pytest

from banger.net.dns import forwarder as forwarder_module
from banger.net.dns.face import Face
from banger.net.dns.forwarder import Forwarder
from banger.net.dns.message import Query, read_query
from banger.net.dns.resolv_conf import HostResolvers, Upstream, upstream_at
from banger.net.dns.responder import Responder
from tests.unit.net.dns.oracle import code, data, dig, parsed, question
from tests.unit.net.dns.test_server import bind_at_any_port, framed, read_framed
from tests.unit.net.dns.test_zone import zone_of

GUEST = "172.30.86.2"


class FakeResolver(asyncio.DatagramProtocol):
    """Sends what ``reply`` makes of a question, as many messages as it likes, by UDP and TCP."""

    def __init__(self, reply: Callable[[Any, bool], list[bytes]]) -> None:
        self.reply = reply
        self.asked: list[bytes] = []

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.asked.append(data)
        for one in self.reply(dnslib.DNSRecord.parse(data), False):
            self.transport.sendto(one, addr)

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        message = await read_framed(reader)
        self.asked.append(message)
        for one in self.reply(dnslib.DNSRecord.parse(message), True):
            writer.write(framed(one))
        await writer.drain()
        writer.close()

    async def start(self) -> Upstream:
        datagrams, stream = bind_at_any_port()
        await asyncio.get_running_loop().create_datagram_endpoint(lambda: self, sock=datagrams)
        self.server = await asyncio.start_server(self.converse, sock=stream)
        found = upstream_at("127.0.0.1", datagrams.getsockname()[1])
        assert found is not None
        return found

    async def close(self) -> None:
        self.transport.close()
        self.server.close()
        await asyncio.sleep(0)


def answered(asked: Any, *, records: int = 1) -> Any:
    answer = asked.reply(ra=1, aa=1)
    for number in range(records):
        answer.add_answer(dnslib.RR(asked.q.qname, rdata=dnslib.A(f"192.0.2.{number % 250}"), ttl=60))
    return answer


def well(asked: Any, stream: bool) -> list[bytes]:
    return [bytes(answered(asked).pack())]


Start = Callable[[Callable[[Any, bool], list[bytes]]], Any]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    started: list[FakeResolver] = []

    async def begin(reply: Callable[[Any, bool], list[bytes]]) -> tuple[FakeResolver, Upstream]:
        started.append(FakeResolver(reply))
        return started[-1], await started[-1].start()

    yield begin
    for one in started:
        await one.close()


def dead() -> Upstream:
    """Where nobody listens, and says so."""
    datagrams, stream = bind_at_any_port()
    found = upstream_at("127.0.0.1", datagrams.getsockname()[1])
    datagrams.close()
    stream.close()
    assert found is not None
    return found


def query(name: str = "ExaMple.com", **more: Any) -> Query:
    found = read_query(question(name, **more))
    assert isinstance(found, Query)
    return found


@pytest.mark.parametrize("stream", [False, True])
async def test_the_answer_is_passed_on(start: Start, stream: bool) -> None:
    resolver, upstream = await start(well)
    asked = query(id=4711, edns=4096)
    answer = await Forwarder(lambda: [upstream]).ask(asked, GUEST, stream=stream)
    assert data(answer) == ["192.0.2.0"]
    assert answer[:2] == (4711).to_bytes(2, "big")
    assert answer[12 : 12 + len(asked.question)] == asked.question
    assert (parsed(answer).header.aa, parsed(answer).header.ra) == (0, 1)
    assert parsed(resolver.asked[0]).ar[0].edns_len == 1232


async def test_ids_and_ports_are_random(start: Start) -> None:
    resolver, upstream = await start(well)
    forwarder = Forwarder(lambda: [upstream])
    for _ in range(12):
        await forwarder.ask(query(id=1), GUEST, stream=False)
    assert len({asked[:2] for asked in resolver.asked}) > 8


async def test_options_of_the_client_stay_with_us(start: Start) -> None:
    resolver, upstream = await start(well)
    plain = question("example.com")
    option = b"\0\x29\x04\xd0\0\0\0\0\0\x0c\0\x0a\0\x08cookie!!"  # RFC 7873
    asked = read_query(plain[:11] + b"\1" + plain[12:] + b"\0" + option)
    assert isinstance(asked, Query)
    await Forwarder(lambda: [upstream]).ask(asked, GUEST, stream=False)
    assert b"cookie!!" not in resolver.asked[0]


async def test_what_is_no_answer_to_it_is_passed_over(start: Start) -> None:
    def forged(asked: Any, stream: bool) -> list[bytes]:
        right = bytes(answered(asked).pack())
        wrong_id = ((int.from_bytes(right[:2], "big") + 1) & 0xFFFF).to_bytes(2, "big") + right[2:]
        other = bytes(answered(dnslib.DNSRecord(dnslib.DNSHeader(id=asked.header.id), q=dnslib.DNSQuestion("evil.example"))).pack())
        empty = right[:2] + b"\x80\0" + b"\0" * 8
        return [b"", b"x", wrong_id, other, right[:2] + b"\0\0" + right[4:], empty, right]

    _, upstream = await start(forged)
    assert data(await Forwarder(lambda: [upstream]).ask(query(), GUEST, stream=False)) == ["192.0.2.0"]


async def test_a_resolver_that_changes_the_case(start: Start) -> None:
    def lower(asked: Any, stream: bool) -> list[bytes]:
        packed = bytes(answered(asked).pack())
        return [packed[:12] + packed[12:].replace(b"ExaMple", b"example")]

    _, upstream = await start(lower)
    asked = query()
    answer = await Forwarder(lambda: [upstream]).ask(asked, GUEST, stream=False)
    assert answer[12 : 12 + len(asked.question)] == asked.question


async def test_what_is_too_long_is_truncated_and_comes_by_tcp(start: Start) -> None:
    _, upstream = await start(lambda asked, stream: [bytes(answered(asked, records=200).pack())])
    forwarder = Forwarder(lambda: [upstream])
    for edns, limit in ((None, 512), (1000, 1000), (65000, 1232)):
        short = await forwarder.ask(query(edns=edns), GUEST, stream=False)
        assert len(short) <= limit
        assert (parsed(short).header.tc, parsed(short).rr) == (1, [])
    assert len(data(await forwarder.ask(query(), GUEST, stream=True))) == 200


async def test_an_error_is_passed_on(start: Start) -> None:
    def refuse(asked: Any, stream: bool) -> list[bytes]:
        return [asked.header.id.to_bytes(2, "big") + b"\x80\x05" + b"\0" * 8]

    _, upstream = await start(refuse)
    answer = await Forwarder(lambda: [upstream]).ask(query(id=9), GUEST, stream=False)
    assert (code(answer), parsed(answer).header.id) == ("REFUSED", 9)


@pytest.mark.parametrize("stream", [False, True])
async def test_the_dead_are_left_for_the_living(start: Start, stream: bool) -> None:
    resolver, upstream = await start(well)
    gone = dead()
    forwarder = Forwarder(lambda: [gone, upstream])
    assert data(await forwarder.ask(query(), GUEST, stream=stream)) == ["192.0.2.0"]
    assert forwarder._in_order()[0] == upstream  # who answered is asked first from now on
    assert len(resolver.asked) == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_without_an_answer_it_is_servfail(start: Start, stream: bool, caplog: pytest.LogCaptureFixture) -> None:
    _, silent = await start(lambda asked, stream: [])
    forwarder = Forwarder(lambda: [silent, dead()], attempt_seconds=0.05)
    for _ in range(3):
        assert code(await forwarder.ask(query(), GUEST, stream=stream)) == "SERVFAIL"
    assert code(await Forwarder(lambda: []).ask(query(), GUEST, stream=stream)) == "SERVFAIL"
    assert [record.message for record in caplog.records if record.levelname == "WARNING"].count(
        "none of this host's resolvers answers: guests cannot resolve names"
    ) == 2  # fmt: skip


async def test_one_guest_cannot_ask_everything_at_once(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwarder_module, "MAX_PER_SOURCE", 2)
    resolver, upstream = await start(lambda asked, stream: [])
    forwarder = Forwarder(lambda: [upstream], attempt_seconds=0.3)
    waiting = [asyncio.create_task(forwarder.ask(query(), GUEST, stream=False)) for _ in range(2)]
    await asyncio.sleep(0.05)
    resolver.reply = well
    assert code(await forwarder.ask(query(), GUEST, stream=False)) == "SERVFAIL"
    assert data(await forwarder.ask(query(), "172.30.86.3", stream=False)) == ["192.0.2.0"]
    await asyncio.gather(*waiting)
    assert data(await forwarder.ask(query(), GUEST, stream=False)) == ["192.0.2.0"]


@pytest.mark.parametrize("way", ["+edns", "+tcp", "+noedns"])
async def test_dig_through_the_guests_face(start: Start, way: str) -> None:
    """dig itself comes back by TCP for what did not fit."""
    _, upstream = await start(lambda asked, stream: [bytes(answered(asked, records=100).pack())])
    sockets = bind_at_any_port()

    async def bind() -> tuple[socket.socket, socket.socket]:
        return sockets

    face = Face("guests", bind, Responder(zone_of(), forwards=Forwarder(lambda: [upstream]), may_forward=lambda _: True), streams_per_source=4)
    await face.open()
    shown = await dig("@127.0.0.1", "-p", str(sockets[0].getsockname()[1]), way, "+short", "example.com")
    assert len(shown.split()) == 100
    await face.close()


def test_resolv_conf_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    resolvers = HostResolvers(path, without={"172.30.86.1"})
    assert resolvers() == ()
    path.write_text("# a comment\nsearch example\nnameserver 127.0.0.53\nnameserver 172.30.86.1\nnameserver nonsense\nnameserver\nnameserver ::1\n")
    assert [one.address for one in resolvers()] == ["127.0.0.53", "::1"]
    (tmp_path / "new").write_text("".join(f"nameserver 192.0.2.{number}\n" for number in range(5)))
    (tmp_path / "new").rename(path)
    assert [one.address for one in resolvers()] == ["192.0.2.0", "192.0.2.1", "192.0.2.2"]
    path.unlink()
    assert resolvers() == ()
