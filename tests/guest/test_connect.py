"""connect: sockets of the guest, against real servers."""

from __future__ import annotations

import random
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.guest.wire import CANCEL, CONNECT, CREDIT, DATA, EOF, ERROR, OPENED, RESULT, WINDOW, Guest, number, u8, u32, wait_until

RESET = struct.pack("ii", 1, 0)


def connect(guest: Guest, where: socket.socket) -> int:
    """Opens a stream to a listening socket."""
    address = where.getsockname()
    if isinstance(address, str):
        return guest.open(CONNECT, (16, f"/{Path(address).name}".encode()))
    return guest.open(CONNECT, (16, address[0].encode()), (17, u32(address[1])))


@pytest.fixture
def tcp() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=300) as listening:
        listening.settimeout(20)
        yield listening


@contextmanager
def unix_server(root: Path, backlog: int = 100) -> Iterator[socket.socket]:
    """A unix socket below the guest's root."""
    root.mkdir(exist_ok=True)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(root / "s"))
        listening.listen(backlog)
        listening.settimeout(20)
        yield listening


def accept(listening: socket.socket) -> socket.socket:
    peer, _ = listening.accept()
    peer.settimeout(20)
    return peer


def read_all(peer: socket.socket) -> bytes:
    content = bytearray()
    while piece := peer.recv(1 << 16):
        content += piece
    return bytes(content)


def serve(listening: socket.socket, count: int, handle: Callable[[socket.socket], None]) -> None:
    """Handles so many connections, each in a thread of its own, beside the test."""

    def one(peer: socket.socket) -> None:
        with peer:
            handle(peer)

    def all_of_them() -> None:
        for _ in range(count):
            threading.Thread(target=one, args=(accept(listening),), daemon=True).start()

    threading.Thread(target=all_of_them, daemon=True).start()


def echo(peer: socket.socket) -> None:
    while piece := peer.recv(1 << 16):
        peer.sendall(piece)


def flood(peer: socket.socket) -> None:
    try:
        while True:
            peer.sendall(bytes(1 << 16))
    except OSError:
        pass


@contextmanager
def full(listening: socket.socket) -> Iterator[None]:
    """The queue of a server that does not accept is full: with a backlog of 0 it has place for one."""
    with socket.socket(listening.family) as first:
        first.connect(listening.getsockname())
        yield


@pytest.mark.parametrize(("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_tcp(guest: Guest, family: socket.AddressFamily, address: str) -> None:
    with socket.create_server((address, 0), family=family) as listening:
        stream = connect(guest, listening)
        guest.send(DATA, stream, b"hello")
        with accept(listening) as peer:
            assert peer.recv(100) == b"hello"
            peer.sendall(b"welcome")
            assert guest.await_frame(OPENED, stream).payload == b""
            frame = guest.await_frame(DATA, stream)
            assert (frame.payload, frame.channel) == (b"welcome", 1)
            guest.send(EOF, stream)
            assert peer.recv(100) == b""
        outcome = guest.collect(stream)
        assert (outcome.fields, outcome.ended) == ({}, [1])


def test_the_address_is_loopback_unless_given(guest: Guest, tcp: socket.socket) -> None:
    serve(tcp, 2, echo)
    for fields in ([], [(16, b"")]):
        outcome = guest.pump(guest.open(CONNECT, (17, u32(tcp.getsockname()[1])), *fields), b"echo")
        assert (outcome.output[1], outcome.fields) == (b"echo", {})


def test_unix_socket(guest: Guest, root: Path) -> None:
    content = random.Random(2).randbytes(2 << 20)
    with unix_server(root) as listening:
        serve(listening, 1, echo)
        outcome = guest.pump(connect(guest, listening), content)
        assert (outcome.output[1], outcome.fields) == (content, {})


def test_refusals(guest: Guest, root: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    outcome = guest.call(CONNECT, (17, u32(port)))
    assert outcome.code == "refused"
    assert outcome.end is not None
    assert outcome.end.fields[2] == f"connect to 127.0.0.1 port {port}: Connection refused".encode()
    assert outcome.opened is None
    assert guest.call(CONNECT, (16, b"/gone")).code == "not_found"
    assert guest.call(CONNECT, (16, b"/gone/s")).code == "not_found"
    with unix_server(root):
        pass
    assert guest.call(CONNECT, (16, b"/s")).code == "refused"
    (root / "datagrams").unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams:
        datagrams.bind(str(root / "datagrams"))
        assert guest.call(CONNECT, (16, b"/datagrams")).code == "io"


@pytest.mark.parametrize(
    "fields",
    [[], [(17, u32(0))], [(17, u32(65536))], [(17, u8(80))], [(16, b"localhost"), (17, u32(80))], [(16, b"127.0.0.1")], [(16, b"1.2.3.4\0"), (17, u32(80))],
     [(16, b"/" + b"x" * 108)], [(16, b"./s"), (17, u32(80))], [(16, b"::1%lo"), (17, u32(80))]],
)  # fmt: skip
def test_no_such_address(guest: Guest, fields: list[tuple[int, bytes]]) -> None:
    assert guest.call(CONNECT, *fields).code == "bad_request"
    guest.ping()


def test_nobody_answers_in_time(guest: Guest, root: Path) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as tcp, unix_server(root, 0) as unix, full(tcp), full(unix):
        streams = [connect(guest, tcp), connect(guest, unix)]
        guest.send(DATA, streams[0], b"too early")
        guest.ping()
        assert [guest.collect(stream).code for stream in streams] == ["timed_out"] * 2


def test_a_full_queue_is_tried_again(guest: Guest, root: Path) -> None:
    with unix_server(root, 0) as listening, full(listening):
        stream = connect(guest, listening)
        guest.send(DATA, stream, b"patient")
        guest.send(EOF, stream)
        assert [frame.type for frame in guest.silence(0.1)] == []
        accept(listening).close()
        with accept(listening) as peer:
            assert read_all(peer) == b"patient"
        assert guest.collect(stream).fields == {}


def test_what_is_decided_later(guest: Guest) -> None:
    """The kernel asks again after a second: one server has made room then, the other is gone."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as busy, full(busy):
        with socket.create_server(("127.0.0.1", 0), backlog=0) as leaving, full(leaving):
            late, never = connect(guest, busy), connect(guest, leaving)
            guest.data(late, b"patient")
            assert guest.silence(0.1) == []
        busy.accept()[0].close()
        assert guest.collect(never).code == "refused"
        busy.settimeout(20)
        with accept(busy) as peer:
            assert peer.recv(100) == b"patient"
            guest.send(EOF, late)
            assert peer.recv(100) == b""
        assert guest.collect(late).fields == {}


def test_all_is_said_before_it_is_connected(guest: Guest, tcp: socket.socket) -> None:
    """As HTTP/1.0 does: the request, the end, then the answer."""
    stream = connect(guest, tcp)
    guest.send(DATA, stream, b"GET / HTTP/1.0\r\n\r\n")
    guest.send(EOF, stream)
    with accept(tcp) as peer:
        assert read_all(peer) == b"GET / HTTP/1.0\r\n\r\n"
        peer.sendall(b"HTTP/1.0 200 OK\r\n\r\n" + bytes(1 << 17))
    outcome = guest.collect(stream)
    assert (len(outcome.output[1]), outcome.fields) == (19 + (1 << 17), {})


def test_the_peer_may_end_first(guest: Guest, tcp: socket.socket) -> None:
    stream = connect(guest, tcp)
    with accept(tcp) as peer:
        peer.sendall(b"my last words")
        peer.shutdown(socket.SHUT_WR)
        assert guest.await_frame(DATA, stream).payload == b"my last words"
        guest.await_frame(EOF, stream)
        content = bytes(range(256)) * 700
        guest.data(stream, content)
        guest.send(EOF, stream)
        assert read_all(peer) == content
    assert guest.collect(stream).fields == {}


def test_a_reset_is_no_end(guest: Guest, tcp: socket.socket) -> None:
    stream = connect(guest, tcp)
    peer = accept(tcp)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    guest.await_frame(OPENED, stream)
    peer.close()
    outcome = guest.collect(stream)
    assert (outcome.code, outcome.ended) == ("io", [])
    assert outcome.end is not None
    assert outcome.end.fields[2] == b"the connection broke: Connection reset by peer"


def test_what_was_said_before_the_peer_left_is_heard(guest: Guest, root: Path) -> None:
    with unix_server(root) as listening:
        stream = connect(guest, listening)
        guest.stingy.add(stream)
        with accept(listening) as peer:
            peer.sendall(bytes(100_000))
        guest.data(stream, bytes(100_000))
        outcome = guest.collect(stream)
        assert (len(outcome.output[1]), outcome.code) == (100_000, "io")


def test_a_peer_that_reads_no_more_may_still_talk(guest: Guest, root: Path) -> None:
    with unix_server(root) as listening:
        stream = connect(guest, listening)
        with accept(listening) as peer:
            peer.shutdown(socket.SHUT_RD)
            guest.data(stream, bytes(CREDIT))
            guest.data(stream, bytes(number(guest.await_frame(WINDOW, stream).payload)))
            peer.sendall(b"still here")
            assert guest.await_frame(DATA, stream).payload == b"still here"
        assert guest.collect(stream).code == "io"


def test_both_directions_at_once(guest: Guest, tcp: socket.socket) -> None:
    content = random.Random(1).randbytes(8 << 20)
    serve(tcp, 1, echo)
    outcome = guest.pump(connect(guest, tcp), content)
    assert outcome.output[1] == content
    assert outcome.fields == {}


def test_a_peer_that_does_not_read_stops_alone(guest: Guest, tcp: socket.socket) -> None:
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    stream = connect(guest, tcp)
    with accept(tcp):
        granted = CREDIT
        while granted:  # the kernel's own buffers fill up
            guest.data(stream, bytes(granted))
            granted = sum(number(frame.payload) for frame in guest.silence() if frame.type == WINDOW)
        assert guest.execute("echo", "hi").output[1] == b"hi\n"
        guest.send(CANCEL, stream)
        guest.ping()


def test_a_peer_is_stopped_by_a_host_that_does_not_read(guest: Guest, tcp: socket.socket) -> None:
    serve(tcp, 1, flood)
    stream = connect(guest, tcp)
    guest.stingy.add(stream)
    assert sum(len(frame.payload) for frame in guest.silence() if frame.type == DATA) == CREDIT
    guest.send(WINDOW, stream, u32(1000), 1)
    assert sum(len(frame.payload) for frame in guest.silence() if frame.type == DATA) == 1000
    guest.send(CANCEL, stream)


def test_more_than_was_granted_ends_the_stream(guest: Guest, tcp: socket.socket) -> None:
    stream = connect(guest, tcp)
    with accept(tcp):
        guest.await_frame(OPENED, stream)
        guest.send(CANCEL, stream)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as deaf, full(deaf):
        stream = connect(guest, deaf)
        guest.data(stream, bytes(CREDIT + 1))
        assert guest.collect(stream).code == "flow_control"


def test_cancel_leaves_nothing(guest: Guest, tcp: socket.socket, root: Path) -> None:
    before = guest.open_descriptors()
    with socket.create_server(("127.0.0.1", 0), backlog=0) as deaf, unix_server(root, 0) as unix, full(deaf), full(unix):
        waiting = [connect(guest, one) for one in (deaf, unix)]
        busy = connect(guest, tcp)
        guest.stingy.add(busy)
        with accept(tcp) as peer:
            peer.sendall(bytes(100_000))
            guest.data(busy, bytes(CREDIT))
            guest.await_frame(DATA, busy)
            for stream in (*waiting, busy):
                guest.send(CANCEL, stream)
            read_all(peer)
    guest.ping()
    assert guest.open_descriptors() == before


def test_a_new_epoch_closes_connections(guest: Guest, tcp: socket.socket) -> None:
    before = guest.open_descriptors()
    stream = connect(guest, tcp)
    with accept(tcp) as peer:
        guest.await_frame(OPENED, stream)
        guest.attach(77)
        assert peer.recv(1) == b""
    assert guest.open_descriptors() == before


def test_talkers_are_served_alike(guest: Guest, tcp: socket.socket) -> None:
    serve(tcp, 100, flood)
    seen = {connect(guest, tcp): 0 for _ in range(100)}
    total = 0
    while min(seen.values()) < 256 << 10:
        frame = guest.receive()
        if frame.type == DATA:
            seen[frame.stream] += len(frame.payload)
            total += len(frame.payload)
        assert total < 1 << 30, "one of them is starved"
    for stream in seen:
        guest.send(CANCEL, stream)


def test_as_many_as_there_are_streams(guest: Guest, tcp: socket.socket) -> None:
    before = guest.open_descriptors()
    serve(tcp, 256, echo)
    streams = [connect(guest, tcp) for _ in range(256)]
    assert guest.collect(connect(guest, tcp)).code == "too_many_streams"
    for stream in streams:
        guest.data(stream, b"%d" % stream * 1000)
        guest.send(EOF, stream)
    for stream in streams:
        outcome = guest.collect(stream)
        assert (outcome.output[1], outcome.fields) == (b"%d" % stream * 1000, {})
    assert guest.open_descriptors() == before


def test_random_ends(guest: Guest, tcp: socket.socket) -> None:
    """However both sides leave, the stream ends once and leaves nothing behind."""
    dice, before = random.Random(5), guest.open_descriptors()

    def leave(peer: socket.socket) -> None:
        try:
            for _ in range(dice.randrange(4)):
                peer.sendall(bytes(dice.randrange(50_000)))
                peer.recv(dice.randrange(1, 1 << 16))
            if dice.random() < 0.3:
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        except OSError:
            pass

    serve(tcp, 60, leave)
    streams = [connect(guest, tcp) for _ in range(60)]
    for stream in streams:
        guest.data(stream, bytes(dice.randrange(CREDIT)))
        guest.send(*dice.choice([(EOF, stream), (EOF, stream), (CANCEL, stream)]))
        if stream % 3:
            guest.ping()

    def settled() -> bool:
        guest.ping()  # reads what is sent, too
        return guest.open_descriptors() == before

    wait_until(settled)
    ends = [frame.stream for frame in guest.silence() if frame.type in (RESULT, ERROR)]
    assert len(ends) == len(set(ends)) <= 60
