"""listeners, stats, time, sync and shutdown."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.guest.wire import LISTENERS, SHUTDOWN, STATS, SYNC, TIME, Guest, number, u8, u64, unpack


def listeners(guest: Guest) -> list[dict[int, bytes]]:
    outcome = guest.call(LISTENERS)
    assert outcome.end is not None
    assert outcome.end.type == 22
    return [dict(unpack(value)) for tag, value in unpack(outcome.end.payload) if tag == 16]


def test_listeners_name_their_process(guest: Guest) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.create_server(("::1", 0), family=socket.AF_INET6) as tcp6,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        socket.create_connection(tcp.getsockname()),
    ):
        udp.bind(("0.0.0.0", 0))
        wanted = [(b"tcp", b"127.0.0.1", tcp), (b"tcp6", b"::1", tcp6), (b"udp", b"0.0.0.0", udp)]
        found = listeners(guest)
        for protocol, address, ours in wanted:
            port = ours.getsockname()[1]
            (entry,) = [item for item in found if number(item[3]) == port and item[1] == protocol]
            assert (entry[2], number(entry[4])) == (address, os.getpid())
            assert entry[5].strip() == Path("/proc/self/comm").read_bytes().strip()
            assert entry[6].startswith(Path("/proc/self/cmdline").read_bytes().split(b"\0")[0])
    guest.await_no_children()


def test_many_listeners_fit_into_one_frame(guest: Guest) -> None:
    servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(700)]
    try:
        assert 100 < len(listeners(guest)) <= 512
    finally:
        for server in servers:
            server.close()


def test_many_reports_at_once(guest: Guest) -> None:
    streams = [guest.open(operation) for operation in (LISTENERS, STATS, SYNC, TIME) * 10]
    for stream in streams:
        assert guest.collect(stream).end is not None
    guest.await_no_children()


def test_a_cancelled_report_is_reaped(guest: Guest) -> None:
    before = guest.open_descriptors()
    for _ in range(10):
        guest.send(24, guest.open(LISTENERS))
    guest.ping()
    guest.await_no_children()
    assert guest.open_descriptors() == before


def test_stats(guest: Guest) -> None:
    before = float(Path("/proc/uptime").read_text().split()[0])
    outcome = guest.call(STATS)
    fields = outcome.fields
    assert before - 0.02 <= number(fields[16]) / 1e6 <= before + 20
    memory = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    assert number(fields[17]) == int(memory["MemTotal"].split()[0]) * 1024
    assert 0 < number(fields[18]) <= number(fields[17])
    assert number(fields[21]) > 1
    assert outcome.end is not None
    systems = [dict(unpack(value)) for tag, value in unpack(outcome.end.payload) if tag == 20]
    status = os.statvfs("/")
    assert systems[0][1] == b"/"
    assert number(systems[0][2]) == status.f_blocks * status.f_frsize


def test_time_is_told_and_never_set_in_a_native_run(guest: Guest) -> None:
    before = time.time_ns()
    first = number(guest.call(TIME).fields[16])
    second = number(guest.call(TIME, (16, u64(1_000_000_000))).fields[16])
    assert before <= first <= second <= time.time_ns()
    assert guest.call(TIME, (16, u64(1 << 63))).code == "bad_request"
    assert guest.call(TIME, (16, b"x")).code == "bad_request"


def test_sync(guest: Guest) -> None:
    assert guest.call(SYNC).fields == {}


@pytest.mark.parametrize("mode", [0, 1, 2])
def test_shutdown_answers_first(make_guest: Callable[..., Guest], mode: int) -> None:
    with make_guest() as guest:
        guest.greet()
        assert guest.call(SHUTDOWN, (16, u8(mode))).fields == {}
        assert guest.process.wait(20) == 0


def test_shutdown_of_an_unknown_kind(guest: Guest) -> None:
    assert guest.call(SHUTDOWN, (16, u8(3))).code == "bad_request"
    assert guest.call(SHUTDOWN, (16, b"")).code == "bad_request"
    guest.ping()
