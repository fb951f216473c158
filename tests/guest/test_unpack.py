"""unpack: a tree stream becomes files, and nothing outside of the destination."""

from __future__ import annotations

import os
import stat
import struct
from pathlib import Path

import pytest

from tests.guest.tree_wire import (
    END,
    REGULAR,
    UNPACK,
    counts,
    directory,
    entry,
    hardlink,
    prune,
    regular,
    remove,
    segments,
    symlink,
)
from tests.guest.wire import CANCEL, Guest, Outcome, pack, u8, u32, u64

MTIME = 1_500_000_000_123_456_789


def unpack(guest: Guest, stream: bytes, *fields: tuple[int, bytes], destination: bytes = b"/d") -> Outcome:
    return guest.pump(guest.open(UNPACK, (16, destination), *fields), stream)


@pytest.fixture
def place(guest: Guest, root: Path) -> Path:
    (root / "d").mkdir()
    return root / "d"


def names(place: Path) -> set[str]:
    return {str(path.relative_to(place)) for path in place.rglob("*")}


def test_a_forest(guest: Guest, place: Path) -> None:
    odd = b"a \n\xff"
    stream = b"".join(
        [
            directory(b"dir", 0o2750, (6, u64(MTIME))),
            regular(b"dir/" + odd, b"content", 0o4711, (6, u64(MTIME))),
            directory(b"dir/empty", 0o500),
            symlink(b"dir/link", b"/etc/passwd"),
            symlink(b"dir/dangling", odd),
            regular(b"big", bytes(range(256)) * 8000, 0o600),
            hardlink(b"same", b"big"),
            regular(b"none", b""),
            END,
        ]
    )
    assert counts(unpack(guest, stream)) == (8, 7 + 256 * 8000)
    made = place / "dir"
    assert stat.S_IMODE(made.stat().st_mode) == 0o2750 and made.stat().st_mtime_ns == MTIME
    file = Path(os.fsdecode(os.fsencode(made) + b"/" + odd))
    assert file.read_bytes() == b"content" and stat.S_IMODE(file.stat().st_mode) == 0o4711 and file.stat().st_mtime_ns == MTIME
    assert stat.S_IMODE((made / "empty").stat().st_mode) == 0o500
    assert (os.readlink(made / "link"), os.fsencode(os.readlink(made / "dangling"))) == ("/etc/passwd", odd)
    assert (place / "big").read_bytes() == bytes(range(256)) * 8000 and (place / "big").samefile(place / "same")
    assert (place / "none").read_bytes() == b""
    assert len(names(place)) == 8


def test_holes(guest: Guest, place: Path) -> None:
    size = 64 << 20
    stream = entry(REGULAR, b"sparse", (7, u64(size))) + segments((1 << 20, b"x" * 4096), (32 << 20, b"end"), size=size) + END
    assert counts(unpack(guest, stream)) == (1, 4099)
    status = (place / "sparse").stat()
    assert status.st_size == size and status.st_blocks * 512 < 1 << 20
    with (place / "sparse").open("rb") as file:
        assert file.read(1 << 20) == bytes(1 << 20) and file.read(4097) == b"x" * 4096 + b"\0"


def test_replacing(guest: Guest, place: Path) -> None:
    (place / "file").write_bytes(b"before")
    (place / "link").symlink_to("file")
    outcome = unpack(guest, regular(b"link", b"after") + symlink(b"file", b"x") + directory(b"new/deep", 0o700) + regular(b"made/up/file", b"y") + END)
    assert counts(outcome)[0] == 4
    assert not (place / "link").is_symlink() and (place / "link").read_bytes() == b"after"
    assert os.readlink(place / "file") == "x"
    assert (place / "made/up/file").read_bytes() == b"y"


def test_remove(guest: Guest, place: Path) -> None:
    (place / "tree/deep").mkdir(parents=True)
    (place / "tree/deep/file").write_bytes(b"x")
    (place / "kept").write_bytes(b"x")
    (place / "link").symlink_to(place / "kept")
    stream = remove(b"tree") + remove(b"link") + remove(b"nothing") + remove(b"nothing/at/all") + remove(b"kept/below") + regular(b"tree", b"now a file") + END
    assert counts(unpack(guest, stream))[0] == 6
    assert names(place) == {"tree", "kept"} and (place / "tree").read_bytes() == b"now a file"


@pytest.mark.parametrize(
    ("stream", "code"), [(regular(b"x", b"file"), "is_a_directory"), (symlink(b"x", b"y"), "is_a_directory"), (directory(b"f"), "not_a_directory")]
)
def test_other_kinds_stay_unless_told(guest: Guest, place: Path, stream: bytes, code: str) -> None:
    (place / "x").mkdir()
    (place / "x/inside").write_bytes(b"")
    (place / "f").write_bytes(b"")
    refused = unpack(guest, stream + END)
    assert refused.code == code and refused.end is not None and b"directory" in refused.end.fields[2]
    assert names(place) == {"x", "x/inside", "f"}
    assert counts(unpack(guest, stream + END, (19, u32(2))))[0] == 1
    assert not list(place.glob(".banger*"))


@pytest.mark.parametrize("path", [b"/etc/x", b"../x", b"a/../../x", b"a//b", b"a/.", b"", b".", b"..", b"a\0b", b"a/", b"n" * 256, b"a/" * 2048 + b"b"])
def test_paths_outside(guest: Guest, place: Path, path: bytes) -> None:
    assert unpack(guest, regular(path, b"x") + END).code == "bad_request"
    assert names(place) == set() and names(place.parent) == {"d"}


@pytest.mark.parametrize("target", [b"/outside", b"../outside", b"..", b"up/../.."])
def test_links_lead_nowhere_outside(guest: Guest, place: Path, root: Path, target: bytes) -> None:
    (root / "outside").mkdir()
    (root / "outside/victim").write_bytes(b"untouched")
    (place / "up").mkdir()
    way = symlink(b"way", target)
    for tail in (regular(b"way/victim", b"evil"), directory(b"way/new"), symlink(b"way/victim", b"x"), hardlink(b"copy", b"way/victim")):
        assert unpack(guest, way + tail + END).code in ("permission", "not_found"), tail
    counts(unpack(guest, way + remove(b"way/victim") + prune(b"way/up") + END))
    assert [path.name for path in (root / "outside").iterdir()] == ["victim"] and (root / "outside/victim").read_bytes() == b"untouched"
    assert names(place) == {"way", "up"}


def test_what_is_behind_a_link_is_not_removed(guest: Guest, place: Path) -> None:
    (place / "e/deep/empty").mkdir(parents=True)
    (place / "e/f").write_bytes(b"the guest's")
    (place / "d").symlink_to("e")
    (place / "loop").symlink_to("loop")
    stream = remove(b"d/f") + remove(b"d/deep/empty") + prune(b"d/deep/empty") + remove(b"loop/x") + prune(b"loop/x") + END
    assert counts(unpack(guest, stream))[0] == 5
    assert names(place) == {"e", "e/deep", "e/deep/empty", "e/f", "d", "loop"}
    unpack(guest, remove(b"d") + remove(b"loop") + END)
    assert names(place) == {"e", "e/deep", "e/deep/empty", "e/f"}


def test_prune_takes_empty_directories_alone(guest: Guest, place: Path) -> None:
    (place / "a/b").mkdir(parents=True)
    (place / "full/x").mkdir(parents=True)
    (place / "file").write_bytes(b"")
    stream = b"".join(map(prune, (b"a/b", b"a", b"full", b"file", b"nothing", b"nothing/x", b"file/x"))) + END
    assert counts(unpack(guest, stream))[0] == 7
    assert names(place) == {"full", "full/x", "file"}


def test_no_link_is_followed_when_told(guest: Guest, place: Path) -> None:
    """A link in place of a directory is replaced by it, and one that is on the way otherwise is named."""
    real = (19, u32(2 | 4))
    (place / "e").mkdir()
    (place / "d").symlink_to("e")
    assert counts(unpack(guest, regular(b"d/f", b"x") + END))[0] == 1
    assert (place / "e/f").read_bytes() == b"x", "without the flag it is followed"
    refused = unpack(guest, regular(b"d/f", b"y") + END, real)
    assert refused.code == "not_a_directory" and refused.end is not None and b"d/f: a symbolic link is on the way" in refused.end.fields[2]
    assert counts(unpack(guest, directory(b"d") + regular(b"d/f", b"y") + END, real))[0] == 2
    assert ((place / "d/f").read_bytes(), (place / "e/f").read_bytes()) == (b"y", b"x") and not (place / "d").is_symlink()


def test_a_loop_of_links_is_called_so(guest: Guest, place: Path) -> None:
    stream = symlink(b"one", b"sp ace") + symlink(b"sp ace", b"one")
    assert counts(unpack(guest, stream + END)) == (2, 0)
    refused = unpack(guest, regular(b"one/x", b"") + END)
    assert refused.code == "permission" and refused.end is not None and b"a loop of symbolic links" in refused.end.fields[2]


def test_hard_links_only_to_files(guest: Guest, place: Path) -> None:
    assert unpack(guest, directory(b"dir") + hardlink(b"x", b"dir") + END).code == "permission"
    assert unpack(guest, symlink(b"s", b"dir") + hardlink(b"x", b"s") + END).code == "permission"
    assert unpack(guest, hardlink(b"x", b"../../etc/passwd") + END).code == "bad_request"
    assert unpack(guest, hardlink(b"x", b"nothing") + END).code == "not_found"


@pytest.mark.parametrize(
    "stream",
    [
        b"",
        b"\x00\x00",
        regular(b"x", b"y"),
        struct.pack("<I", 0xFFFFFFFF),
        struct.pack("<I", 65537) + bytes(65537),
        struct.pack("<I", 3) + b"abc",
        entry(7, b"fifo") + END,
        entry(0, b"x") + END,
        entry(REGULAR, b"x", (7, u64(2**64 - 1))) + END,
        entry(REGULAR, b"x", (7, u64(4))) + segments((2, b"abc"), size=4) + END,
        entry(REGULAR, b"x", (7, u64(4))) + segments((0, b"ab"), (1, b"c"), size=4) + END,
        entry(REGULAR, b"x", (7, u64(4))) + segments(size=5) + END,
        entry(REGULAR, b"x", (7, u64(4))) + struct.pack("<QI", 0, 4) + b"ab",
        entry(REGULAR, b"x", (3, u8(4))) + END,
        entry(3, b"x") + END,
        entry(3, b"x", (8, b"a\0b")) + END,
    ],
)
def test_malformed(guest: Guest, place: Path, stream: bytes) -> None:
    outcome = unpack(guest, stream)
    assert outcome.code == "bad_request"
    assert names(place) <= {"x"} and not (place / "x").is_symlink()
    guest.ping()


def test_destination(guest: Guest, place: Path) -> None:
    (place / "file").write_bytes(b"")
    stream = directory(b".", 0o711) + regular(b"x", b"") + END
    assert unpack(guest, stream, destination=b"/d/new/deep").code == "not_found"
    assert unpack(guest, stream, destination=b"/d/file").code == "not_a_directory"
    assert unpack(guest, stream, destination=b"relative").code == "bad_request"
    assert unpack(guest, stream, (19, u32(8))).code == "bad_request"
    assert counts(unpack(guest, stream, (19, u32(1)), destination=b"/d/new/deep")) == (2, 0)
    assert stat.S_IMODE((place / "new/deep").stat().st_mode) == 0o711
    mode = place.stat().st_mode
    assert counts(unpack(guest, stream)) == (2, 0) and place.stat().st_mode == mode, "an existing destination stays as it is"


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_owners(guest: Guest, place: Path) -> None:
    own = ((4, u32(1234)), (5, u32(4321)))
    stream = directory(b"dir", 0o755, *own) + regular(b"dir/file", b"x", 0o4755, *own) + symlink(b"dir/link", b"x") + regular(b"new/file", b"") + END
    unpack(guest, stream)
    found = {name: ((place / name).lstat().st_uid, (place / name).lstat().st_gid) for name in ("dir", "dir/file", "dir/link", "new/file")}
    assert found == {"dir": (1234, 4321), "dir/file": (1234, 4321), "dir/link": (0, 0), "new/file": (0, 0)}
    assert stat.S_IMODE((place / "dir/file").stat().st_mode) == 0o4755
    unpack(guest, remove(b"dir") + remove(b"new") + stream, (17, u32(7)), (18, u32(8)))
    assert {(path.lstat().st_uid, path.lstat().st_gid) for path in place.rglob("*")} == {(7, 8)}


def test_extended_attributes(guest: Guest, place: Path) -> None:
    taken, refused = pack([(1, b"user.note"), (2, b"\0\1")]), pack([(1, b"trusted.evil"), (2, b"x")])
    unpack(guest, entry(REGULAR, b"x", (7, u64(300_000)), (9, taken), (9, refused)) + segments((0, bytes(300_000)), size=300_000) + END)
    try:
        os.setxattr(place, "user.probe", b"")
    except OSError:
        return  # a file system without them
    assert os.getxattr(place / "x", "user.note") == b"\0\1" and os.listxattr(place / "x") == ["user.note"]


def test_cancel_leaves_nothing_half_written(guest: Guest, place: Path) -> None:
    (place / "old").write_bytes(b"whole")
    stream = guest.open(UNPACK, (16, b"/d"))
    guest.data(stream, regular(b"done", b"x") + entry(REGULAR, b"old", (7, u64(1 << 20))) + struct.pack("<QI", 0, 1 << 20) + bytes(100_000))
    guest.ping()
    guest.send(CANCEL, stream)
    guest.await_no_children()
    assert names(place) == {"done", "old"} and (place / "old").read_bytes() == b"whole"
    assert guest.open_descriptors() < 12


def test_a_full_disk(guest: Guest, place: Path) -> None:
    size = 1 << 62
    outcome = unpack(guest, entry(REGULAR, b"x", (7, u64(size))) + struct.pack("<QI", size - 1, 1) + b"x" + segments(size=size) + END)
    assert outcome.code in ("no_space", "bad_request") and names(place) == set()


def test_the_agent_answers_while_a_worker_is_stuck(guest: Guest, place: Path) -> None:
    """Here it gets no input for a while."""
    stream = guest.open(UNPACK, (16, b"/d"))
    assert guest.execute("echo", "hi").output[1] == b"hi\n"
    guest.data(stream, regular(b"x", b"y"))
    guest.data(stream, END)
    assert counts(guest.collect(stream)) == (1, 1)


def test_sixty_four_mebibytes(guest: Guest, place: Path) -> None:
    content = os.urandom(1 << 20) * 64
    assert counts(unpack(guest, regular(b"x", content) + END)) == (1, len(content))
    assert (place / "x").read_bytes() == content
