"""Jobs: commands that go on without the host."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guest.tree_wire import JOB_LIST, JOB_OUTPUT, JOB_SIGNAL, JOB_START
from tests.guest.wire import CANCEL, OPENED, RESULT, Guest, Outcome, is_alive, number, u8, u32, u64, unpack, wait_until


@pytest.fixture
def jobs(guest: Guest, root: Path) -> Iterator[Path]:
    yield root / "var/lib/banger/jobs"
    for one in listed(guest).values():
        if number(one[3]) == 0:
            guest.call(JOB_SIGNAL, (30, one[1]), (17, u32(signal.SIGKILL)))
    guest.await_no_children()


def start(guest: Guest, id: str, *words: str, limit: int | None = None) -> Outcome:
    fields = [(30, id.encode()), *((16, word.encode()) for word in words)]
    return guest.call(JOB_START, *fields, *([(31, u64(limit))] if limit is not None else []))


def listed(guest: Guest) -> dict[str, dict[int, bytes]]:
    end = guest.call(JOB_LIST).end
    assert end is not None and end.type == RESULT, end
    found = [dict(unpack(value)) for tag, value in unpack(end.payload) if tag == 16]
    return {one[1].decode(): one for one in found}


def output(guest: Guest, id: str, *, which: int = 3, offset: int = 0, follow: bool = True) -> Outcome:
    return guest.call(JOB_OUTPUT, (30, id.encode()), (17, u8(which)), (18, u64(offset)), (19, u8(follow)))


def test_a_life(guest: Guest, jobs: Path) -> None:
    started = start(guest, "one", "sh", "-c", "echo out; echo err >&2; read x; exit 7")
    pid = number(started.fields[19])
    done = output(guest, "one")
    assert done.output == {1: b"out\n", 2: b"err\n"} and done.status == (0, 7) and number(done.fields[20]) == 1
    assert done.opened is not None and not is_alive(pid)
    (job,) = listed(guest).values()
    assert (job[1], number(job[2]), number(job[3]), number(job[4]), number(job[5])) == (b"one", pid, 1, 0, 7)
    assert job[9] == b"sh -c echo out; echo err >&2; read x; exit 7" and (number(job[11]), number(job[12])) == (4, 4)
    assert number(job[7]) < number(job[8])
    assert {path.name for path in (jobs / "one").iterdir()} == {"command", "status", "stdout", "stderr"}
    assert output(guest, "one", which=1, offset=2).output == {1: b"t\n", 2: b""}
    assert output(guest, "one", which=2).output == {1: b"err\n", 2: b""}
    assert output(guest, "one", which=0).output == {1: b"", 2: b""}


def test_it_survives_a_new_epoch(guest: Guest, jobs: Path, root: Path) -> None:
    gate = root / "gate"
    os.mkfifo(gate)
    start(guest, "long", "sh", "-c", f"echo before; cat {gate}; echo after")
    guest.attach(4711)
    assert number(listed(guest)["long"][3]) == 0
    stream = guest.open(JOB_OUTPUT, (30, b"long"), (19, u8(1)))
    guest.await_frame(OPENED, stream)
    gate.write_bytes(b"through\n")
    done = guest.collect(stream)
    assert done.output[1] == b"before\nthrough\nafter\n" and done.status == (0, 0)


def test_signals(guest: Guest, jobs: Path) -> None:
    start(guest, "sleeper", "sh", "-c", "sleep 1000 & wait")
    assert guest.call(JOB_SIGNAL, (30, b"sleeper"), (17, u32(signal.SIGTERM))).fields == {}
    assert output(guest, "sleeper").status == (1, signal.SIGTERM)
    wait_until(lambda: guest.call(JOB_SIGNAL, (30, b"sleeper")).end.type != RESULT)  # type: ignore[union-attr]
    assert guest.call(JOB_SIGNAL, (30, b"sleeper")).code == "not_found"
    assert guest.call(JOB_SIGNAL, (30, b"none"), (17, u32(9))).code == "not_found"


def test_output_is_bounded(guest: Guest, jobs: Path) -> None:
    start(guest, "loud", "sh", "-c", "head -c 1000000 /dev/zero; echo done >&2", limit=100_000)
    done = output(guest, "loud")
    assert done.output[2] == b"done\n" and done.status == (0, 0)
    assert done.output[1].startswith(bytes(100_000) + b"\n[banger: ") and len(done.output[1]) < 100_200
    assert number(listed(guest)["loud"][13]) == 1


def test_what_cannot_be_started(guest: Guest, jobs: Path) -> None:
    refused = start(guest, "x", "/no/such/program")
    assert refused.status == (2, 2) and refused.fields[18].startswith(b"exec /no/such/program: ")
    assert listed(guest) == {} and not (jobs / "x").exists()
    for id, words in (("UPPER", ["true"]), ("", ["true"]), ("a/b", ["true"]), ("..", ["true"]), ("n" * 65, ["true"]), ("x", [])):
        assert start(guest, id, *words).code == "bad_request", id
    assert guest.call(JOB_START, (30, b"x"), (16, b"true"), (19, b"nobody-here")).code == "no_user"
    assert 19 in start(guest, "x", "true").fields, "the id is free again"
    assert start(guest, "x", "true").code == "exists"
    output(guest, "x")
    guest.await_no_children()
    assert start(guest, "x", "true").code == "exists"
    assert output(guest, "none").code == "not_found"


def test_descendants_do_not_keep_it(guest: Guest, jobs: Path) -> None:
    start(guest, "parent", "sh", "-c", "echo now; sleep 1000 & echo $! >&2")
    done = output(guest, "parent")
    assert done.output[1] == b"now\n" and done.status == (0, 0)
    os.kill(int(done.output[2]), signal.SIGKILL)


def test_a_follower_that_leaves(guest: Guest, jobs: Path) -> None:
    start(guest, "quiet", "sleep", "1000")
    stream = guest.open(JOB_OUTPUT, (30, b"quiet"), (19, u8(1)))
    guest.await_frame(OPENED, stream)
    before = len(guest.children())
    guest.send(CANCEL, stream)
    wait_until(lambda: len(guest.children()) < before)
    assert number(listed(guest)["quiet"][3]) == 0


def test_a_supervisor_that_is_killed(guest: Guest, jobs: Path) -> None:
    pid = number(start(guest, "orphan", "sleep", "1000").fields[19])
    (supervisor,) = [child for child in guest.children() if child != pid]
    os.kill(supervisor, signal.SIGKILL)
    wait_until((jobs / "orphan/status").exists)
    assert output(guest, "orphan").status == (1, signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)


def test_jobs_of_an_earlier_boot_are_lost(guest: Guest, jobs: Path) -> None:
    start(guest, "old", "true")
    output(guest, "old")
    guest.await_no_children()
    (jobs / "old/status").unlink()
    assert number(listed(guest)["old"][3]) == 2
    lost = output(guest, "old")
    assert number(lost.fields[20]) == 2 and b"went down" in lost.fields[18]


def test_the_oldest_go(guest: Guest, jobs: Path) -> None:
    start(guest, "first", "true")
    output(guest, "first")
    guest.await_no_children()
    for i in range(255):
        shutil.copytree(jobs / "first", jobs / f"copy-{i:03}")
    os.utime(jobs / "first", (1, 1))
    os.utime(jobs / "copy-000", (2, 2))
    start(guest, "last", "true")
    output(guest, "last")
    assert len(list(jobs.iterdir())) == 256 and not (jobs / "first").exists() and (jobs / "copy-000").exists()
