"""Output that we ask a guest for: all of it, within limits."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import pytest

from banger.client import Client
from banger.client.capture import capture
from banger.client.workspace_guest import tree_stream
from banger.guest.fields import pack, text
from banger.guest.frames import INITIAL_WINDOW, STDERR, STDOUT, FrameType
from banger.guest.tree_stream import Content, Entry, FileEnd, Kind, StreamEnd, TreeDecoder
from banger.host.paths import Layout
from banger.model.errors import BangerError, ChannelLost, GuestError
from banger.workspace.guest import Output
from banger.workspace.records import Record, directory, prune, regular, remove
from tests.unit.client.fake_daemon import FakeDaemon, Guest, Reply, running
from tests.unit.client.scripts import Script, pours, says


def run(home: Path, script: Script, **options: object) -> Output:
    with running(home) as daemon:
        _serve(daemon, script)
        with Client.connect(Layout.from_environment({"BANGER_HOME": str(home)}), start=False) as client:
            return capture(client, "box", ("git",), **options)  # type: ignore[arg-type]


def _serve(daemon: FakeDaemon, script: Script) -> None:
    daemon.routes["POST /v1/vms/box/exec"] = Reply({"token": "exec"})
    daemon.streams["exec"] = script


def test_output_and_status(tmp_path: Path) -> None:
    assert run(tmp_path, says(b"out", b"err", number=3)) == Output(3, b"out", b"err")
    assert run(tmp_path / "2", says(kind=2, number=2, message="exec git: No such file or directory")).status == 127


def test_more_than_a_window_comes_through(tmp_path: Path) -> None:
    into = BytesIO()
    assert run(tmp_path, pours(3 * INITIAL_WINDOW), into=into).status == 0
    assert len(into.getvalue()) == 3 * INITIAL_WINDOW
    done = run(tmp_path / "2", pours(3 * INITIAL_WINDOW, channel=STDERR))
    assert 0 < len(done.stderr) < INITIAL_WINDOW


def floods(guest: Guest) -> None:
    for _ in range(INITIAL_WINDOW // 65536 + 2):
        guest.send(FrameType.DATA, b"x" * 60000, STDOUT)
        guest.send(FrameType.DATA, b"x" * 60000, STDERR)


def test_guests_that_lie_are_left(tmp_path: Path) -> None:
    with pytest.raises(GuestError, match="limit"):
        run(tmp_path / "1", pours(1000), limit=999)
    with pytest.raises(GuestError, match="refused so"):
        run(tmp_path / "2", lambda guest: guest.send(FrameType.ERROR, pack((1, text("io")), (2, text("refused so")))))
    with pytest.raises(ChannelLost):
        run(tmp_path / "3", lambda guest: guest.send(FrameType.DATA, b"x", STDOUT))
    with pytest.raises(GuestError, match="malformed"):
        run(tmp_path / "4", lambda guest: guest.send(FrameType.RESULT, b"xx"))


def test_records_are_a_tree_stream() -> None:
    records = [
        directory(b"d"),
        regular(b"d/f", b"content", 0o755),
        regular(b"empty", b""),
        Record(kind="symlink", path=b"l", mode=0o777, mtime_ns=5, target=b"d/f"),
        remove(b"old"),
        prune(b"folder"),
    ]
    decoder = TreeDecoder()
    events = list(decoder.feed(b"".join(tree_stream(records))))
    decoder.finish()
    assert [(one.kind, one.path) for one in events if isinstance(one, Entry)] == [
        (Kind.DIRECTORY, b"d"), (Kind.REGULAR, b"d/f"), (Kind.REGULAR, b"empty"), (Kind.SYMLINK, b"l"), (Kind.REMOVE, b"old"),
        (Kind.PRUNE, b"folder"),
    ]  # fmt: skip
    assert [one for one in events if isinstance(one, Content | FileEnd | StreamEnd)] == [Content(0, b"content"), FileEnd(7), FileEnd(0), StreamEnd()]
    with pytest.raises(BangerError, match="too long"):
        list(tree_stream([remove(b"x" * 300)]))
