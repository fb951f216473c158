"""Flow control: nobody sends beyond credit, and nobody waits for a stream that is not his."""

from __future__ import annotations

import random

import pytest

from tests.guest.wire import CREDIT, DATA, EOF, RESULT, WINDOW, Guest, number, u32


@pytest.mark.parametrize("words", [["cat"], ["sh", "-c", "cat; sleep 0.05"], ["dd", "bs=1000", "status=none"]])
def test_both_directions_at_once(guest: Guest, words: list[str]) -> None:
    content = random.Random(1).randbytes(6 << 20)
    outcome = guest.pump(guest.start(*words, stdin=True), content)
    assert outcome.output[1] == content
    assert outcome.fields


def test_credit_comes_back_in_large_steps(guest: Guest) -> None:
    stream = guest.start("sh", "-c", "cat > /dev/null", stdin=True)
    guest.data(stream, bytes(CREDIT))
    grants: list[int] = []
    while sum(grants) <= CREDIT - CREDIT // 4:  # what is less than a step may wait for more
        grants.append(number(guest.await_frame(WINDOW, stream).payload))
    assert min(grants) >= CREDIT // 4
    guest.send(EOF, stream)
    guest.collect(stream)


def test_a_program_that_does_not_read_grants_nothing_for_ever(guest: Guest) -> None:
    stream = guest.start("sleep", "1000", stdin=True)
    guest.data(stream, bytes(CREDIT))
    granted = sum(number(frame.payload) for frame in guest.silence() if frame.type == WINDOW)
    assert granted < CREDIT + 1
    guest.data(stream, bytes(granted))
    guest.ping()
    guest.send(24, stream)


def test_more_than_was_granted_ends_the_stream(guest: Guest) -> None:
    stream = guest.start("sleep", "1000", stdin=True)
    guest.data(stream, bytes(3 * CREDIT))
    assert guest.collect(stream).code == "flow_control"
    guest.await_no_children()


def test_a_channel_that_is_not_read_stops_alone(guest: Guest) -> None:
    """stderr of the same process, other streams and plain calls go on."""
    stream = guest.start("sh", "-c", "yes & while :; do echo tick >&2; sleep 0.01; done")
    guest.stingy.add(stream)
    seen = {1: 0, 2: 0}

    def listen_for_ticks(count: int) -> None:
        end = seen[2] + 5 * count
        while seen[2] < end:
            frame = guest.await_frame(DATA, stream)
            seen[frame.channel] += len(frame.payload)
            if frame.channel == 2:
                guest.send(WINDOW, stream, u32(len(frame.payload)), 2)

    listen_for_ticks(20)
    assert seen[1] <= CREDIT
    outcome = guest.pump(guest.start("cat", stdin=True), bytes(3 << 20))
    assert len(outcome.output[1]) == 3 << 20
    assert guest.execute("echo", "hi").output[1] == b"hi\n"
    guest.send(WINDOW, stream, u32(1000), 1)
    listen_for_ticks(20)
    assert CREDIT < seen[1] <= CREDIT + 1000
    guest.send(24, stream)


def test_a_blocked_input_stops_alone(guest: Guest) -> None:
    blocked = [guest.start("sleep", "1000", stdin=True) for _ in range(5)]
    for stream in blocked:
        guest.data(stream, bytes(CREDIT))
    content = bytes(2 << 20)
    assert guest.pump(guest.start("cat", stdin=True), content).output[1] == content
    for stream in blocked:
        guest.send(24, stream)
    guest.await_no_children()


def test_several_talkers_share_the_channel(guest: Guest) -> None:
    """None of them is starved for ever, however the host schedules them."""
    streams = [guest.start("cat", "/dev/zero") for _ in range(4)]
    seen = dict.fromkeys(streams, 0)
    while min(seen.values()) < 4 << 20:
        frame = guest.receive()
        if frame.type == DATA:
            seen[frame.stream] += len(frame.payload)
    for stream in streams:
        guest.send(24, stream)


def test_a_ping_gets_through_a_flood(guest: Guest) -> None:
    stream = guest.start("cat", "/dev/zero")
    for _ in range(20):
        guest.ping()
    guest.send(24, stream)


@pytest.mark.parametrize("frame", [(WINDOW, b"abc", 1), (WINDOW, u32(1), 0), (WINDOW, u32(1), 3), (DATA, b"x", 1), (DATA, b"x", 200), (EOF, b"", 2)])
def test_frames_that_make_no_sense_end_the_stream(guest: Guest, frame: tuple[int, bytes, int]) -> None:
    stream = guest.start("sleep", "1000", stdin=True)
    guest.send(frame[0], stream, frame[1], frame[2])
    assert guest.collect(stream).code == "bad_request"
    guest.await_no_children()


def test_data_after_the_end_is_refused(guest: Guest) -> None:
    stream = guest.start("sleep", "1000", stdin=True)
    guest.send(EOF, stream)
    guest.data(stream, b"late")
    assert guest.collect(stream).code == "bad_request"


def test_huge_grants_do_not_overflow(guest: Guest) -> None:
    stream = guest.start("sh", "-c", "sleep 0.1; head -c 3000000 /dev/zero")
    guest.stingy.add(stream)
    for _ in range(3):
        guest.send(WINDOW, stream, u32(0xFFFFFFFF), 1)
    outcome = guest.collect(stream)
    assert len(outcome.output[1]) == 3000000
    assert outcome.end is not None
    assert outcome.end.type == RESULT
