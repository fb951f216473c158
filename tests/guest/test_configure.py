"""configure, as far as it goes without a machine: the message, the files and the states."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.guest.wire import CANCEL, CONFIGURE, EOF, ERROR, EVENT, Guest, Outcome, number, pack, u8, u32, u64


@pytest.fixture
def fresh(make_guest: Callable[..., Guest]) -> Iterator[Guest]:
    with make_guest(configured=False) as guest:
        assert number(guest.greet().fields[3]) == 0
        yield guest


def configure(guest: Guest, *fields: tuple[int, bytes]) -> Outcome:
    return guest.pump(guest.open(CONFIGURE), pack([(16, b"box"), (17, u8(1)), (22, u64(time.time_ns())), (23, b"seed"), *fields]))


def file(path: bytes, content: bytes, mode: int = 0o600) -> tuple[int, bytes]:
    return 21, pack([(1, path), (2, u32(mode)), (3, u32(os.geteuid())), (4, u32(os.getegid())), (5, content)])


def test_before_it_everything_else_is_refused(fresh: Guest) -> None:
    fresh.ping()
    for operation in range(2, 10):
        assert fresh.call(operation, (16, b"/x")).code == "not_ready"


def test_files_and_states(fresh: Guest, root: Path) -> None:
    outcome = configure(fresh, (20, b"10.0.2.3"), (20, b"1.1.1.1"), file(b"/root/.ssh/authorized_keys", b"key\n"), file(b"/etc/x", b"", 0o4711))
    assert outcome.fields[17] == b"banger"
    assert number(outcome.fields[16]) > 0
    event = fresh.await_frame(EVENT)
    assert event.fields[1] == b"booted"
    assert number(fresh.attach(1).fields[3]) == 3
    assert fresh.execute("echo", "ready").output[1] == b"ready\n"
    assert (root / "etc/hostname").read_text() == "box\n"
    assert (root / "etc/hosts").read_text() == "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.1.1\tbox\n"
    assert (root / "etc/resolv.conf").read_text() == "nameserver 10.0.2.3\nnameserver 1.1.1.1\n"
    assert (root / "root/.ssh/authorized_keys").read_text() == "key\n"
    assert [(root / name).stat().st_mode & 0o7777 for name in ("root/.ssh/authorized_keys", "etc/x", "etc/hosts")] == [0o600, 0o4711, 0o644]
    assert (root / "run/tmpfiles.d/tmp.conf").read_text() == "d /tmp 1777 root root -\n"
    assert (root / "run/systemd/system/tmp.mount").readlink() == Path("/dev/null")
    assert (root / "tmp").stat().st_mode & 0o7777 == 0o1777


def test_what_the_image_has_is_kept_or_replaced(fresh: Guest, root: Path) -> None:
    (root / "etc").mkdir()
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n127.0.1.1 old-name\n10.1.2.3 mine")
    (root / "etc/resolv.conf").symlink_to("/nowhere/stub-resolv.conf")
    assert configure(fresh, (20, b"9.9.9.9")).fields
    assert (root / "etc/hosts").read_text() == "127.0.0.1 localhost\n10.1.2.3 mine\n127.0.1.1\tbox\n"
    assert not (root / "etc/resolv.conf").is_symlink()
    assert (root / "etc/resolv.conf").read_text() == "nameserver 9.9.9.9\n"


def test_a_large_configuration(fresh: Guest, root: Path) -> None:
    content = random.Random(4).randbytes(5 << 20)
    assert configure(fresh, file(b"/large", content)).fields
    assert (root / "large").read_bytes() == content


def test_once(fresh: Guest) -> None:
    assert configure(fresh).fields
    assert fresh.call(CONFIGURE).code == "already_configured"


def test_the_second_of_two_comes_too_late(fresh: Guest) -> None:
    first, second = fresh.open(CONFIGURE), fresh.open(CONFIGURE)
    fresh.send(EOF, second)
    assert fresh.collect(second).fields
    fresh.send(EOF, first)
    assert fresh.collect(first).code == "already_configured"


def test_one_that_is_given_up_does_not_count(fresh: Guest) -> None:
    stream = fresh.open(CONFIGURE)
    fresh.data(stream, bytes(1000))
    fresh.send(CANCEL, stream)
    stream = fresh.open(CONFIGURE)
    fresh.data(stream, bytes(1000))
    assert number(fresh.attach(6).fields[3]) == 0
    assert configure(fresh).fields


def test_too_large(fresh: Guest) -> None:
    outcome = fresh.pump(fresh.open(CONFIGURE), bytes((16 << 20) + 1))
    assert outcome.code == "bad_request"
    assert configure(fresh).fields


@pytest.mark.parametrize(
    "content", [b"\1", pack([(17, b"xx")]), pack([(22, b"1234")]), pack([(16, b"a\0b")]), pack([(19, b"\7")]), pack([(19, pack([(3, b"")]))])]
)
def test_malformed(fresh: Guest, content: bytes) -> None:
    assert fresh.pump(fresh.open(CONFIGURE), content).code == "bad_request"
    assert configure(fresh).fields, "nothing was tried, so it is still waiting"


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ((16, b"two words"), "hostname"),
        ((20, b"1.1.1.1\nx"), "nameserver"),
        ((21, b"\1"), "file"),
        ((21, pack([(1, b"relative")])), "file relative"),
        ((21, pack([(1, b"/etc/hostname/below")])), "file /etc/hostname/below"),
        ((22, u64(1 << 63)), "clock"),
    ],
)
def test_failure_names_the_step_and_is_final(fresh: Guest, field: tuple[int, bytes], words: str) -> None:
    outcome = fresh.pump(fresh.open(CONFIGURE), pack([field, (16, b"box")]))
    assert outcome.code == "configure_failed"
    assert outcome.end is not None
    assert words in outcome.end.fields[2].decode()
    fresh.ping()
    assert fresh.execute("true").code == "not_ready"
    assert fresh.call(CONFIGURE).code == "already_configured"
    assert number(fresh.attach(1).fields[3]) == 1


def test_random_configurations_never_hurt(make_guest: Callable[..., Guest]) -> None:
    dice = random.Random(12)
    with make_guest(configured=False) as guest:
        guest.greet()
        for _ in range(150):
            # Field 26 exists nowhere: with its odd end no message is well formed, so each one is only looked at.
            fields = [(dice.randrange(16, 26), dice.randbytes(dice.choice([0, 1, 4, 8, 50]))) for _ in range(dice.randrange(8))]
            content = bytearray(pack(fields) + pack([(26, bytes(9))])[:-1])
            if fields and dice.random() < 0.5:
                content[dice.randrange(len(content) - 14)] ^= 1 << dice.randrange(8)
            outcome = guest.pump(guest.open(CONFIGURE), bytes(content))
            assert outcome.end is not None
            assert outcome.end.type == ERROR
            if outcome.code == "already_configured":
                break
        guest.ping()
