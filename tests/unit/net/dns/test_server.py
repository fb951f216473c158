"""A real server on real sockets, asked by dig and by clients that are slow, many, or rude."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from ipaddress import IPv4Address

import pytest

from banger.host.bound_ports import bind_pair
from banger.net.dns.face import Face
from banger.net.dns.responder import Responder
from banger.net.dns.streams import Streams
from tests.unit.net.dns.oracle import data, dig, question
from tests.unit.net.dns.test_zone import zone_of

LOOPBACK = IPv4Address("127.0.0.1")


@pytest.fixture
async def port() -> AsyncIterator[int]:
    sockets = bind_at_any_port()

    async def bind() -> tuple[socket.socket, socket.socket]:
        return sockets

    face = Face("test", bind, Responder(zone_of(box="172.30.86.2")), streams_per_source=4)
    assert await face.open()
    yield sockets[0].getsockname()[1]
    await face.close()
    await face.close()


def bind_at_any_port() -> tuple[socket.socket, socket.socket]:
    """One port for both: a TCP port that is free need not be free for UDP."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            number = probe.getsockname()[1]
        try:
            return bind_pair(LOOPBACK, number)
        except Exception:
            continue


@pytest.mark.parametrize("way", ["+notcp", "+tcp"])
async def test_dig(port: int, way: str) -> None:
    at = ("@127.0.0.1", "-p", str(port), way)
    assert (await dig(*at, "+short", "box.vm")).strip() == "172.30.86.2"
    assert (await dig(*at, "+short", "a.b.box.vm")).strip() == "172.30.86.2"
    assert (await dig(*at, "+short", "-x", "172.30.86.2")).strip() == "box.vm."
    nodata = await dig(*at, "box.vm", "AAAA")
    assert "status: NOERROR" in nodata
    assert "ANSWER: 0, AUTHORITY: 1" in nodata
    denied = await dig(*at, "nobody.vm")
    assert "status: NXDOMAIN" in denied
    assert "flags: qr aa rd;" in denied
    assert "\tSOA\tvm. nobody.invalid." in denied
    assert "status: REFUSED" in await dig(*at, "example.com")
    assert "status: BADVERS" in await dig(*at, "+edns=1", "+noednsnegotiation", "box.vm")
    assert "udp: 1232" in await dig(*at, "+bufsize=4096", "box.vm")
    assert "OPT PSEUDOSECTION" not in await dig(*at, "+noedns", "box.vm")


async def test_many_questions_on_one_connection(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    asked = [question(f"n{number}.box.vm", id=number) for number in range(300)]
    writer.write(b"".join(framed(one) for one in asked))
    writer.write_eof()
    answers = [await read_framed(reader) for _ in asked]
    assert [int.from_bytes(answer[:2], "big") for answer in answers] == list(range(300))
    assert all(data(answer) == ["172.30.86.2"] for answer in answers)
    assert await reader.read() == b""
    writer.close()


async def test_a_question_in_crumbs(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for byte in framed(question("box.vm")):
        writer.write(bytes((byte,)))
        await writer.drain()
        await asyncio.sleep(0)
    assert data(await read_framed(reader)) == ["172.30.86.2"]
    writer.close()


@pytest.mark.parametrize("rude", [b"\0\0", b"\xff\xff" + b"x" * 100, b"\0\3abc"])
async def test_who_breaks_the_rules_is_cut_off(port: int, rude: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(rude)
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await reader.readexactly(1)
    writer.close()
    assert (await dig("@127.0.0.1", "-p", str(port), "+tcp", "+short", "box.vm")).strip() == "172.30.86.2"


async def test_connections_of_one_client_are_counted(port: int) -> None:
    kept = [await asyncio.open_connection("127.0.0.1", port) for _ in range(4)]
    for reader, writer in kept:  # they have been accepted when they are answered
        writer.write(framed(question("box.vm")))
        await read_framed(reader)
    reader, refused = await asyncio.open_connection("127.0.0.1", port)
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await reader.readexactly(1)
    refused.close()
    kept[0][1].close()
    await kept[0][1].wait_closed()
    await asyncio.sleep(0.05)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(framed(question("box.vm")))
    assert data(await read_framed(reader)) == ["172.30.86.2"]
    for _, one in (*kept[1:], (reader, writer)):
        one.close()


async def test_an_idle_connection_is_closed() -> None:
    datagrams, stream = bind_at_any_port()
    datagrams.close()
    streams = Streams(Responder(zone_of()), per_source=1, idle=0.05)
    await streams.start(stream)
    reader, writer = await asyncio.open_connection(*stream.getsockname())
    writer.write(b"\0")
    assert await reader.read() == b""
    writer.close()
    await streams.close()


async def test_who_takes_no_answers_is_cut_off() -> None:
    """And not kept for ever in the kernel's hands with what it has not read."""
    datagrams, stream = bind_at_any_port()
    datagrams.close()
    streams = Streams(Responder(zone_of()), per_source=1, idle=0.1)
    await streams.start(stream)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        client.connect(stream.getsockname())
        client.setblocking(False)
        many = framed(question("x" * 60 + ".vm")) * 500
        async with asyncio.timeout(30):
            while not streams.connections:
                await asyncio.sleep(0.01)
            while streams.connections:
                with contextlib.suppress(BlockingIOError, ConnectionError):
                    client.send(many)
                await asyncio.sleep(0.005)
    await streams.close()


async def test_close_ends_connections(port: int) -> None:
    """The fixture closes the face while this one is still open."""
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"\0")
    await writer.drain()
    await asyncio.sleep(0.02)
    writer.close()


def framed(message: bytes) -> bytes:
    return struct.pack("!H", len(message)) + message


async def read_framed(reader: asyncio.StreamReader) -> bytes:
    return await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
