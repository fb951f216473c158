"""pack, stat and user."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from tests.guest.tree_wire import DIRECTORY, HARDLINK, PACK, REGULAR, STAT, SYMLINK, USER, counts, parse
from tests.guest.wire import CANCEL, CREDIT, Guest, number, u8, u32


@pytest.fixture
def tree(guest: Guest, root: Path) -> Path:
    top = root / "top"
    (top / "dir/deep").mkdir(parents=True, mode=0o750)
    (top / "empty").mkdir(mode=0o700)
    (top / "file").write_bytes(b"content")
    (top / "file").chmod(0o4711)
    os.utime(top / "file", ns=(1, 1_234_567_890_123_456_789))
    Path(os.fsdecode(os.fsencode(top) + b"/dir/a \n\xff")).write_bytes(b"odd")
    (top / "dir/deep/link").symlink_to("/etc/passwd")
    (top / "again").hardlink_to(top / "file")
    return top


def test_a_tree(guest: Guest, tree: Path) -> None:
    outcome = guest.call(PACK, (16, b"/top"))
    found = parse(outcome.output[1])
    assert set(found) == {b"top", b"top/dir", b"top/dir/deep", b"top/dir/deep/link", b"top/dir/a \n\xff", b"top/empty", b"top/file", b"top/again"}
    assert {path: number(fields[1]) for path, (fields, _) in found.items() if path not in (b"top/file", b"top/again")} == {
        b"top": DIRECTORY,
        b"top/dir": DIRECTORY,
        b"top/dir/deep": DIRECTORY,
        b"top/empty": DIRECTORY,
        b"top/dir/deep/link": SYMLINK,
        b"top/dir/a \n\xff": REGULAR,
    }
    first, second = sorted((b"top/file", b"top/again"), key=list(found).index)
    assert (number(found[first][0][1]), number(found[second][0][1])) == (REGULAR, HARDLINK)
    assert found[second][0][8] == first and found[first][1] == b"content"
    fields = found[first][0]
    assert (number(fields[3]), number(fields[4]), number(fields[5])) == (0o4711, os.geteuid(), os.getegid())
    assert (number(fields[6]), number(fields[7])) == (1_234_567_890_123_456_789, 7)
    assert found[b"top/dir/deep/link"][0][8] == b"/etc/passwd"
    assert counts(outcome) == (8, 10) and outcome.ended == [1]


def test_names_and_contents(guest: Guest, tree: Path) -> None:
    assert list(parse(guest.call(PACK, (16, b"/top/empty/"), (18, b"other")).output[1])) == [b"other"]
    contents = parse(guest.call(PACK, (16, b"/top"), (17, u32(2))).output[1])
    assert next(iter(contents)) == b"." and set(contents) >= {b"file", b"dir/deep/link"}
    assert guest.call(PACK, (16, b"/top/file"), (17, u32(2))).code == "not_a_directory"
    assert guest.call(PACK, (16, b"/nothing")).code == "not_found"
    for bad in ((16, b"top"), (18, b"a/b"), (17, u32(8))):
        assert guest.call(PACK, *dict([(16, b"/top"), bad]).items()).code == "bad_request"


def test_the_top_link_is_followed_on_request(guest: Guest, tree: Path) -> None:
    (tree / "way").symlink_to("dir")
    assert number(parse(guest.call(PACK, (16, b"/top/way")).output[1])[b"way"][0][1]) == SYMLINK
    assert b"way/deep/link" in parse(guest.call(PACK, (16, b"/top/way"), (17, u32(1))).output[1])


def test_holes(guest: Guest, root: Path) -> None:
    with (root / "sparse").open("wb") as file:
        file.seek(10 << 20)
        file.write(b"middle")
        file.truncate(32 << 20)
    outcome = guest.call(PACK, (16, b"/sparse"))
    assert len(outcome.output[1]) < 1 << 20
    content = parse(outcome.output[1])[b"sparse"][1]
    assert content == (root / "sparse").read_bytes()


def test_what_no_stream_can_carry_is_told(guest: Guest, root: Path) -> None:
    (root / "odd").mkdir()
    os.mkfifo(root / "odd/fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(root / "odd/socket"))
    outcome = guest.call(PACK, (16, b"/odd"))
    assert list(parse(outcome.output[1])) == [b"odd"] and number(outcome.fields[19]) == 2
    assert outcome.end is not None and b"fifo" in outcome.end.payload and b"a socket" in outcome.end.payload


def test_a_reader_that_stops(guest: Guest, root: Path) -> None:
    (root / "big").write_bytes(bytes(8 << 20))
    stream = guest.open(PACK, (16, b"/big"))
    guest.stingy.add(stream)
    assert sum(len(frame.payload) for frame in guest.silence(0.5)) == CREDIT
    guest.send(CANCEL, stream)
    guest.await_no_children()
    guest.ping()


def test_stat(guest: Guest, tree: Path, root: Path) -> None:
    (tree / "way").symlink_to("dir")
    fields = guest.call(STAT, (16, b"/top/way")).fields
    assert (number(fields[16]), fields[22], fields[23]) == (SYMLINK, b"dir", b"/top/way")
    fields = guest.call(STAT, (16, b"/top/way"), (17, u8(1))).fields
    assert (number(fields[16]), fields[23]) == (DIRECTORY, b"/top/dir")
    fields = guest.call(STAT, (16, b"/top/file")).fields
    assert [number(fields[tag]) for tag in (16, 17, 18, 19, 20, 21)] == [REGULAR, 0o4711, 7, os.geteuid(), os.getegid(), 1_234_567_890_123_456_789]
    assert guest.call(STAT, (16, b"/nothing")).code == "not_found"
    assert guest.call(STAT, (16, b"relative")).code == "bad_request"


def test_user(guest: Guest, root: Path) -> None:
    (root / "etc").mkdir()
    (root / "etc/passwd").write_text("root:x:0:0::/root:/bin/bash\nann:x:1000:100:Ann:/home/ann:/bin/zsh\n")
    fields = guest.call(USER, (16, b"ann")).fields
    assert (number(fields[16]), number(fields[17]), fields[18], fields[19], fields[20]) == (1000, 100, b"/home/ann", b"/bin/zsh", b"ann")
    assert guest.call(USER).fields[18] == b"/root" and guest.call(USER, (16, b"1000")).fields[20] == b"ann"
    assert guest.call(USER, (16, b"nobody-here")).code == "no_user"
