"""Following a job through the end of one daemon and the beginning of the next."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from banger.client import Client, follow
from banger.client.follow import Follower
from banger.client.stream import Ended
from banger.guest.fields import pack, text, u32
from banger.guest.frames import STDERR, STDOUT, FrameType
from banger.model.errors import ChannelLost, GuestError
from tests.unit.client.fake_daemon import Call, FakeDaemon, Guest, Reply, failure, running
from tests.unit.client.scripts import result, says

OUT, ERR = b"0123456789" * 20_000, b"abcdefghij" * 3


class Output:
    """What the daemon answers to those who ask for the output: each of ``answers`` once. ``offsets`` is what they asked for."""

    def __init__(self, *answers: Reply | str) -> None:
        self.offsets: list[int] = []
        self._answers = list(answers)

    def __call__(self, call: Call) -> Reply:
        self.offsets.append(call.json.get("offset", 0))
        answer = self._answers.pop(0)
        return Reply({"token": answer}) if isinstance(answer, str) else answer


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDaemon]:
    monkeypatch.setattr(follow, "_PAUSE_SECONDS", 0.01)
    with running(tmp_path) as daemon:
        daemon.streams |= {"begin": breaks_off, "more": continues, "end": says(number=3)}
        yield daemon


def breaks_off(guest: Guest) -> None:
    """All of stdout's first half and a little of stderr; then the daemon is killed."""
    guest.send(FrameType.OPENED, pack((1, u32(7))))
    half = OUT[: len(OUT) // 2]
    for begin in range(0, len(half), 50_000):
        guest.send(FrameType.DATA, half[begin : begin + 50_000], STDOUT)
    guest.send(FrameType.DATA, ERR[:7], STDERR)


def continues(guest: Guest) -> None:
    """From the offset on, which is what stderr lacks."""
    guest.send(FrameType.OPENED, pack((1, u32(7))))
    rest = OUT[7:]
    for begin in range(0, len(rest), 50_000):
        guest.send(FrameType.DATA, rest[begin : begin + 50_000], STDOUT)
    guest.send(FrameType.DATA, ERR[7:], STDERR)
    result(guest, number=42)
    while guest.receive() is not None:
        pass


def run(daemon: FakeDaemon, output: Output, *, following: bool = True) -> Ended:
    daemon.routes["POST /v1/vms/box/jobs/j/output"] = output
    with Client.connect(daemon.layout) as client:
        return Follower(client=client, ref="box", job_id="j", which="both", follow=following).run()


def test_it_goes_on_where_it_stopped(daemon: FakeDaemon, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    output = Output("begin", failure(503, "guest_error", "the agent is not there yet"), "more")
    assert run(daemon, output) == Ended(42)
    assert capfdbinary.readouterr() == (OUT, ERR)
    assert output.offsets == [0, 7, 7]


def test_a_daemon_that_says_that_it_ends(daemon: FakeDaemon) -> None:
    daemon.streams["begin"] = lambda guest: guest.send(FrameType.ERROR, pack((1, text("channel_lost")), (2, text("the daemon is stopping"))))
    assert run(daemon, Output("begin", "end")) == Ended(3)


@pytest.mark.parametrize("code", ["not_running", "not_found"])
def test_a_machine_that_went_down_is_not_waited_for(daemon: FakeDaemon, code: str) -> None:
    with pytest.raises(ChannelLost, match="hung up"):
        run(daemon, Output("begin", failure(409, code, "box is not running")))


def test_waiting_is_bounded(daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "RECONNECT_SECONDS", 0)
    with pytest.raises(ChannelLost, match="was not back within") as caught:
        run(daemon, Output("begin", *[failure(503, "guest_error", "not yet")] * 2))
    assert "banger vm job wait box j" in caught.value.hint


def test_what_was_never_followed_is_not_tried_again(daemon: FakeDaemon) -> None:
    with pytest.raises(ChannelLost):
        run(daemon, Output("begin"), following=False)
    with pytest.raises(GuestError):
        run(daemon, Output(failure(503, "guest_error", "no agent")))
    daemon.streams["begin"] = lambda guest: guest.send(FrameType.ERROR, pack((1, text("not_found")), (2, text("no job j"))))
    with pytest.raises(GuestError, match="no job"):
        run(daemon, Output("begin"))
