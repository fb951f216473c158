"""stdin and stdout joined with a stream that a scripted guest plays."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from banger.client.join import Joined
from banger.guest.fields import pack, text, u32
from banger.guest.frames import INITIAL_WINDOW, STDIN, STDOUT, FrameType
from banger.model.errors import ChannelLost, GuestError
from tests.unit.client.fake_daemon import Guest


@contextmanager
def joined() -> Iterator[tuple[Joined, Guest]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.settimeout(20)
        yield Joined(ours), Guest(theirs)


def pipe_with(content: bytes) -> int:
    read, write = os.pipe()

    def fill() -> None:
        with os.fdopen(write, "wb") as file:
            file.write(content)

    threading.Thread(target=fill).start()
    return read


def test_both_directions_and_both_ends() -> None:
    with joined() as (one, guest):
        guest.send(FrameType.OPENED)
        guest.send(FrameType.DATA, b"greeting", STDOUT)  # in the same read as OPENED
        one.wait_open()
        out, written = os.pipe()
        stdin = pipe_with(b"question")

        def play() -> None:
            sent = b""
            while (frame := guest.receive()) is not None and frame.type != FrameType.EOF:
                assert (frame.type, frame.channel) == (FrameType.DATA, STDIN)
                sent += frame.payload
            guest.send(FrameType.DATA, b" answer to " + sent, STDOUT)
            guest.send(FrameType.EOF, channel=STDOUT)
            guest.send(FrameType.RESULT)

        playing = threading.Thread(target=play)
        playing.start()
        one.run(stdin, written)
        playing.join(20)
        with os.fdopen(out, "rb") as file:
            assert file.read() == b"greeting answer to question"  # it ended although `written` is still open
        os.close(written)
        os.close(stdin)


def test_no_more_than_the_credit_is_sent() -> None:
    with joined() as (one, guest):
        content = os.urandom(INITIAL_WINDOW + 100_000)
        stdin = pipe_with(content)
        received = bytearray()
        most: list[int] = []

        def play() -> None:
            granted = INITIAL_WINDOW
            while (frame := guest.receive()) is not None and frame.type != FrameType.EOF:
                received.extend(frame.payload)
                most.append(granted - len(received))
                if granted == len(received):
                    granted += 65536
                    guest.send(FrameType.WINDOW, u32(65536), STDIN)
            guest.send(FrameType.RESULT)

        playing = threading.Thread(target=play)
        playing.start()
        with open(os.devnull, "wb") as null:
            one.run(stdin, null.fileno())
        playing.join(20)
        assert bytes(received) == content and min(most) >= 0
        os.close(stdin)


def test_credit_is_given_for_what_was_written() -> None:
    with joined() as (one, guest):
        granted: list[int] = []

        def play() -> None:
            for _ in range(8):
                guest.send(FrameType.DATA, bytes(32768), STDOUT)
            while sum(granted) < 4 * 65536 and (frame := guest.receive()) is not None:
                if frame.type == FrameType.WINDOW:
                    granted.append(int.from_bytes(frame.payload, "little"))
            guest.send(FrameType.RESULT)

        playing = threading.Thread(target=play)
        playing.start()
        stdin = pipe_with(b"")
        with open(os.devnull, "wb") as null:
            one.run(stdin, null.fileno())
        playing.join(20)
        assert sum(granted) == 4 * 65536
        os.close(stdin)


def test_a_refusal_has_its_code() -> None:
    with joined() as (one, guest):
        guest.send(FrameType.ERROR, pack((1, text("refused")), (2, text("connect: no"))))
        with pytest.raises(GuestError, match="connect: no") as caught:
            one.wait_open()
        assert caught.value.guest_code == "refused"


def test_a_daemon_that_hangs_up() -> None:
    with joined() as (one, guest):
        guest.sock.close()
        with pytest.raises(ChannelLost):
            one.wait_open()
