"""read and write."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.guest.wire import CANCEL, CREDIT, DATA, EOF, READ, WRITE, Guest, Outcome, number, u8, u32

needs_root = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")]


def write(guest: Guest, path: str, content: bytes, *fields: tuple[int, bytes]) -> Outcome:
    return guest.pump(guest.open(WRITE, (16, path.encode()), *fields), content)


def listing(root: Path) -> list[str]:
    return sorted(os.listdir(root))


@pytest.mark.parametrize("size", [0, 1, 65504, 65505, CREDIT, 3_000_001])
def test_read(guest: Guest, root: Path, size: int) -> None:
    content = random.Random(size).randbytes(size)
    (root / "file").write_bytes(content)
    (root / "file").chmod(0o4751)
    outcome = guest.call(READ, (16, b"/file"))
    assert (outcome.output[1], outcome.ended) == (content, [1])
    assert {tag: number(value) for tag, value in outcome.fields.items()} == {16: size, 17: 0o4751, 18: os.geteuid(), 19: os.getegid()}


def test_read_waits_for_credit(guest: Guest, root: Path) -> None:
    (root / "file").write_bytes(bytes(1 << 20))
    stream = guest.open(READ, (16, b"/file"))
    guest.stingy.add(stream)
    frames = guest.silence()
    assert sum(len(frame.payload) for frame in frames) == CREDIT
    guest.ping()
    guest.send(CANCEL, stream)
    guest.ping()
    assert guest.silence(0.05) == []


def test_several_reads_go_on_side_by_side(guest: Guest, root: Path) -> None:
    (root / "file").write_bytes(bytes(2 << 20))
    streams = [guest.open(READ, (16, b"/file")) for _ in range(3)]
    for stream in streams:
        assert len(guest.collect(stream).output[1]) == 2 << 20


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/none", "not_found"),
        ("/none/x", "not_found"),
        ("/file/x", "not_found"),
        ("/dir", "not_a_file"),
        ("/fifo", "not_a_file"),
        ("/loop", "io"),
        ("file", "bad_request"),
        ("", "bad_request"),
        ("/" + "x" * 5000, "bad_request"),
        ("/a\0b", "bad_request"),
    ],
)
def test_read_refusals(guest: Guest, root: Path, path: str, code: str) -> None:
    (root / "file").write_bytes(b"x")
    (root / "dir").mkdir()
    os.mkfifo(root / "fifo")
    (root / "loop").symlink_to("loop")
    before = guest.open_descriptors()
    assert guest.call(READ, (16, path.encode())).code == code
    guest.ping()
    assert guest.open_descriptors() == before


@pytest.mark.parametrize("size", [0, 5, 2_000_003])
def test_write(guest: Guest, root: Path, size: int) -> None:
    content = random.Random(size).randbytes(size)
    assert number(write(guest, "/file", content).fields[16]) == size
    assert (root / "file").read_bytes() == content
    assert (root / "file").stat().st_mode & 0o7777 == 0o644
    assert listing(root) == ["file"]


@pytest.mark.parametrize("owner", [pytest.param((12, 34), marks=needs_root), (os.geteuid(), os.getegid())])
def test_write_sets_mode_and_owner_and_makes_directories(guest: Guest, root: Path, owner: tuple[int, int]) -> None:
    outcome = write(guest, "/a/b/file", b"x", (17, u32(0o6750)), (18, u32(owner[0])), (19, u32(owner[1])), (20, u8(1)))
    assert number(outcome.fields[16]) == 1
    status = (root / "a/b/file").stat()
    assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (0o6750, *owner)
    status = (root / "a").stat()
    assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (0o755, *owner)


def test_write_replaces_at_the_end_and_not_before(guest: Guest, root: Path) -> None:
    (root / "file").write_bytes(b"old")
    stream = guest.open(WRITE, (16, b"/file"))
    guest.data(stream, b"new")
    guest.ping()
    assert (root / "file").read_bytes() == b"old"
    assert len(listing(root)) == 2
    guest.send(EOF, stream)
    assert number(guest.collect(stream).fields[16]) == 3
    assert (root / "file").read_bytes() == b"new"
    assert listing(root) == ["file"]


def test_write_replaces_a_link_and_not_its_target(guest: Guest, root: Path) -> None:
    (root / "target").write_bytes(b"kept")
    (root / "link").symlink_to("target")
    write(guest, "/link", b"new")
    assert ((root / "target").read_bytes(), (root / "link").is_symlink()) == (b"kept", False)


def test_cancelled_write_leaves_nothing(guest: Guest, root: Path) -> None:
    stream = guest.open(WRITE, (16, b"/file"))
    guest.data(stream, b"some of it")
    guest.ping()
    assert len(listing(root)) == 1
    guest.send(CANCEL, stream)
    guest.ping()
    assert listing(root) == []


def test_write_that_breaks_the_rules_leaves_nothing(guest: Guest, root: Path) -> None:
    stream = guest.open(WRITE, (16, b"/file"))
    for _ in range(20):
        guest.send(DATA, stream, bytes(65504), 1)
    assert guest.collect(stream).code == "bad_request"
    assert listing(root) == []


@pytest.mark.parametrize(
    ("path", "code"), [("/none/x", "not_found"), ("/dir", "not_a_file"), ("/file/x", "not_found"), ("x", "bad_request"), ("/", "not_a_file")]
)
def test_write_refusals(guest: Guest, root: Path, path: str, code: str) -> None:
    (root / "dir").mkdir()
    (root / "file").write_bytes(b"x")
    assert guest.call(WRITE, (16, path.encode())).code == code
    assert listing(root) == ["dir", "file"]


@pytest.mark.parametrize("full", [pytest.param(True, marks=needs_root)])
def test_write_to_a_full_disk(guest: Guest, root: Path, full: bool) -> None:
    """/dev/full cannot be renamed over, so a tiny tmpfs has to do."""
    import subprocess

    small = root / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "small", small], capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        assert write(guest, "/small/file", bytes(200_000)).code == "no_space"
        assert listing(small) == []
    finally:
        guest.ping()
        subprocess.run(["umount", small], check=True)


def test_many_writes_at_once(guest: Guest, root: Path) -> None:
    streams = [guest.open(WRITE, (16, f"/file{i}".encode())) for i in range(50)]
    for i, stream in enumerate(streams):
        guest.data(stream, f"content {i}".encode())
    for stream in streams:
        guest.send(EOF, stream)
    for i, stream in enumerate(streams):
        assert guest.collect(stream).fields
        assert (root / f"file{i}").read_text() == f"content {i}"
    assert len(listing(root)) == 50
