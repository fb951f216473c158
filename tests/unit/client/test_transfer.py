"""One stream of content each way: credit is kept, refusals and lost connections are told, an early answer ends the sending."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from banger.client.transfer import receive_content, send_content
from banger.guest.fields import pack, text, u32, u64
from banger.guest.frames import INITIAL_WINDOW, MAX_PAYLOAD, STDIN, STDOUT, FrameType
from banger.model.errors import ChannelLost, GuestError
from tests.unit.client.fake_daemon import Guest
from tests.unit.client.scripts import Script

RESULT = pack((16, u64(3)))


@contextmanager
def talking_to(script: Script) -> Iterator[socket.socket]:
    """A socket whose other end plays the guest in a thread, then hangs up."""
    ours, theirs = socket.socketpair()

    def play() -> None:
        with theirs:
            script(Guest(theirs))

    thread = threading.Thread(target=play)
    thread.start()
    with ours:
        yield ours
    thread.join(20)
    assert not thread.is_alive()


class Sink:
    """Takes what is sent, gives credit back in halves of a window, and answers when it ends."""

    def __init__(self) -> None:
        self.content = bytearray()
        self.frames: list[int] = []
        self.overdrawn = False

    def __call__(self, guest: Guest) -> None:
        credit, taken = INITIAL_WINDOW, 0
        while (frame := guest.receive()) is not None and frame.type != FrameType.EOF:
            assert frame.type == FrameType.DATA and frame.channel == STDIN
            self.content += frame.payload
            self.frames.append(len(frame.payload))
            credit, taken = credit - len(frame.payload), taken + len(frame.payload)
            self.overdrawn |= credit < 0
            if taken >= INITIAL_WINDOW // 2:
                guest.send(FrameType.WINDOW, u32(taken), STDIN)
                credit, taken = credit + taken, 0
        guest.send(FrameType.RESULT, RESULT)


def test_chunks_arrive_in_order_and_within_credit() -> None:
    chunks = [b"head", bytes(range(256)) * (3 * INITIAL_WINDOW // 256), b"", b"a" * MAX_PAYLOAD, b"tail"]
    sink, told = Sink(), list[int]()
    with talking_to(sink) as sock:
        assert send_content(sock, chunks, told.append).u64(16) == 3
    assert bytes(sink.content) == b"".join(chunks)
    assert not sink.overdrawn and max(sink.frames) <= MAX_PAYLOAD
    assert told == sink.frames


def test_small_chunks_share_a_frame_and_nothing_is_still_an_end() -> None:
    sink = Sink()
    with talking_to(sink) as sock:
        send_content(sock, (b"%d," % number for number in range(1000)))
    assert len(sink.frames) == 1
    nothing = Sink()
    with talking_to(nothing) as sock:
        assert send_content(sock, ()).u64(16) == 3
    assert nothing.frames == []


def test_an_early_answer_ends_the_sending() -> None:
    def answers_first(guest: Guest) -> None:
        guest.send(FrameType.RESULT, RESULT)
        while guest.receive() is not None:
            pass

    asked: list[int] = []

    def endless() -> Iterator[bytes]:
        while True:
            asked.append(1)
            yield b"x" * MAX_PAYLOAD

    with talking_to(answers_first) as sock:
        assert send_content(sock, endless()).u64(16) == 3
    assert len(asked) * MAX_PAYLOAD <= INITIAL_WINDOW + 2 * MAX_PAYLOAD


def test_a_refusal_in_the_middle_is_the_guests_own() -> None:
    def refuses(guest: Guest) -> None:
        guest.receive()
        guest.send(FrameType.ERROR, pack((1, text("no_space")), (2, text("/x: No space left on device"))))

    with talking_to(refuses) as sock, pytest.raises(GuestError, match="No space left") as caught:
        send_content(sock, iter([b"x" * MAX_PAYLOAD] * 100))
    assert caught.value.guest_code == "no_space"


def test_a_daemon_that_hangs_up_is_told() -> None:
    with talking_to(lambda guest: None) as sock, pytest.raises(ChannelLost):
        send_content(sock, [b"x" * MAX_PAYLOAD])
    with talking_to(lambda guest: guest.send(FrameType.DATA, b"part", STDOUT)) as sock, pytest.raises(ChannelLost):
        list(receive_content(sock))


def test_receiving_gives_credit_back_for_what_is_consumed() -> None:
    size = 3 * INITIAL_WINDOW
    granted: list[int] = []

    def pours(guest: Guest) -> None:
        credit, left = INITIAL_WINDOW, size
        while left:
            while credit and left:
                piece = min(credit, left, MAX_PAYLOAD)
                guest.send(FrameType.DATA, b"x" * piece, STDOUT)
                credit, left = credit - piece, left - piece
            while left and not credit:
                frame = guest.receive()
                assert frame is not None and frame.type == FrameType.WINDOW and frame.channel == STDOUT
                granted.append(int.from_bytes(frame.payload, "little"))
                credit += granted[-1]
        guest.send(FrameType.RESULT, RESULT)

    with talking_to(pours) as sock:
        receiver = receive_content(sock)
        assert sum(map(len, receiver)) == size
        assert receiver.result is not None and receiver.result.u64(16) == 3
    assert min(granted) >= INITIAL_WINDOW // 4
