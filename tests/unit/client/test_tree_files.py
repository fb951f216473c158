"""Host trees as tree streams and back; tar streams; and what a malicious guest might send."""

from __future__ import annotations

import contextlib
import io
import os
import socket
import stat
import subprocess
import tarfile
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from banger.client.files import TreeReader
from banger.client.tarball import TarReader, TarWriter
from banger.client.tree_writer import TreeWriter
from banger.guest.tree_stream import END, Entry, Kind, encode_entry, encode_file_end, segment_header, small_file
from banger.model.errors import BadRequest, BangerError, GuestError

MTIME = 1_400_000_000_987_654_321


def odd(place: Path, name: bytes) -> Path:
    return Path(os.fsdecode(os.fsencode(place) + b"/" + name))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "top"
    (top / "dir/deep").mkdir(parents=True)
    (top / "empty").mkdir(mode=0o700)
    (top / "file").write_bytes(b"content")
    (top / "file").chmod(0o741)
    (top / "big").write_bytes(bytes(range(256)) * 12_000)
    odd(top, b"dir/a b\n\xff").write_bytes(b"odd")
    (top / "dir/link").symlink_to("/etc/passwd")
    (top / "dir/deep/dangling").symlink_to("no such thing")
    (top / "same").hardlink_to(top / "file")
    with (top / "sparse").open("wb") as file:
        file.truncate(50 << 20)
        file.seek(20 << 20)
        file.write(b"island")
    (top / "closed").mkdir()
    (top / "closed/inside").write_bytes(b"x")
    os.utime(top / "file", ns=(MTIME, MTIME))
    os.utime(top / "dir", ns=(MTIME, MTIME))
    (top / "closed").chmod(0o500)
    return top


def look(top: Path) -> dict[bytes, tuple[object, ...]]:
    """Everything that a copy shall keep."""
    found: dict[bytes, tuple[object, ...]] = {}
    for path in [top, *top.rglob("*")]:
        info = path.lstat()
        name = os.fsencode(path.relative_to(top))
        content = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else ""
        found[name] = (stat.S_IFMT(info.st_mode), stat.S_IMODE(info.st_mode), content, info.st_mtime_ns if not stat.S_ISLNK(info.st_mode) else 0)
    return found


def read(path: Path, name: bytes, *, follow: bool = False) -> list[bytes]:
    return list(TreeReader().read(os.fsencode(path), name, follow=follow))


def write(place: Path, chunks: Iterable[bytes]) -> TreeWriter:
    with TreeWriter(os.fsencode(place)) as writer:
        writer.write(chunks)
    return writer


def test_a_tree_comes_back(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "to").mkdir()
    reader = TreeReader()
    stream = b"".join(reader.read(os.fsencode(tree), b"copy"))
    assert len(stream) < 4 << 20, "holes are not sent"
    writer = write(tmp_path / "to", (stream[at : at + 1000] for at in range(0, len(stream), 1000)))
    assert look(tmp_path / "to/copy") == look(tree)
    assert (tmp_path / "to/copy/same").samefile(tmp_path / "to/copy/file")
    assert (tmp_path / "to/copy/sparse").stat().st_blocks * 512 < 1 << 20
    assert (writer.entries, writer.size) == (reader.entries, reader.size)
    write(tmp_path / "to", [stream])
    assert look(tmp_path / "to/copy") == look(tree), "a second time over the first"


def test_contents_and_links(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "to").mkdir()
    write(tmp_path / "to", read(tree / "dir", b"."))
    assert {os.fsencode(path.name) for path in (tmp_path / "to").iterdir()} == {b"deep", b"link", b"a b\n\xff"}
    (tree / "way").symlink_to("file")
    write(tmp_path / "to", [*read(tree / "way", b"plain")])
    write(tmp_path / "to", [*read(tree / "way", b"followed", follow=True)])
    assert os.readlink(tmp_path / "to/plain") == "file" and (tmp_path / "to/followed").read_bytes() == b"content"


def test_what_cannot_be_sent_is_told(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    os.mkfifo(tmp_path / "d/fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "d/socket"))
    told: list[tuple[bytes, str]] = []
    list(TreeReader(on_skipped=lambda path, why: told.append((path, why))).read(os.fsencode(tmp_path / "d"), b"d"))
    assert sorted(why for _, why in told) == ["a fifo", "a socket"]
    with pytest.raises(BangerError, match="cannot read"):
        read(tmp_path / "nothing", b"x")


# -- a guest that is not to be trusted ---------------------------------------------------------------------------------------------------------------


def file(path: bytes, content: bytes = b"evil", mode: int = 0o644) -> bytes:
    return small_file(Entry(kind=Kind.REGULAR, path=path, mode=mode, size=len(content)), content)


def link(path: bytes, target: bytes) -> bytes:
    return encode_entry(Entry(kind=Kind.SYMLINK, path=path, target=target))


def hard(path: bytes, target: bytes) -> bytes:
    return encode_entry(Entry(kind=Kind.HARDLINK, path=path, target=target))


@pytest.fixture
def jail(tmp_path: Path) -> Path:
    (tmp_path / "victim").write_bytes(b"untouched")
    (tmp_path / "outside").mkdir()
    (tmp_path / "jail").mkdir()
    return tmp_path / "jail"


@pytest.mark.parametrize(
    "stream",
    [
        link(b"way", b"../outside") + file(b"way/x"),
        link(b"way", b"/tmp") + encode_entry(Entry(kind=Kind.DIRECTORY, path=b"way", mode=0o777)),
        link(b"way", b"../outside") + encode_entry(Entry(kind=Kind.DIRECTORY, path=b"way/x")),
        link(b"way", b"..") + hard(b"x", b"way/victim"),
        link(b"way", b"../victim") + hard(b"x", b"way"),
        encode_entry(Entry(kind=Kind.REMOVE, path=b"kept")),
        file(b"kept/x"),
        encode_entry(Entry(kind=Kind.DIRECTORY, path=b"d")) + file(b"d"),
        b"".join(encode_entry(Entry(kind=Kind.DIRECTORY, path=b"/".join([b"d"] * depth))) for depth in range(1, 300)),
    ],
)
def test_nothing_outside_is_touched(jail: Path, stream: bytes) -> None:
    (jail / "kept").write_bytes(b"kept")
    with pytest.raises((GuestError, BangerError)):
        write(jail, [stream + END])
    assert (jail.parent / "victim").read_bytes() == b"untouched" and (jail.parent / "victim").stat().st_nlink == 1
    assert list((jail.parent / "outside").iterdir()) == [] and (jail / "kept").read_bytes() == b"kept"
    assert not [path for path in jail.iterdir() if path.name.startswith(".banger")]


def test_links_are_replaced_not_followed(jail: Path) -> None:
    (jail / "x").symlink_to("../victim")
    write(jail, [file(b"x") + END])
    assert not (jail / "x").is_symlink() and (jail / "x").read_bytes() == b"evil"
    write(jail, [link(b"x", b"../victim") + file(b"x", b"again") + END])
    assert (jail / "x").read_bytes() == b"again" and (jail.parent / "victim").read_bytes() == b"untouched"


def test_nothing_runs_as_somebody_else(jail: Path) -> None:
    with TreeWriter(os.fsencode(jail), archive=True) as writer:
        writer.write([file(b"x", mode=0o6755) + encode_entry(Entry(kind=Kind.DIRECTORY, path=b"d", mode=0o3777, uid=0, gid=0)) + END])
    assert stat.S_IMODE((jail / "x").stat().st_mode) == 0o755 and stat.S_IMODE((jail / "d").stat().st_mode) == 0o1777


@pytest.mark.parametrize("cut", [0.2, 0.9])
def test_nothing_half_written(jail: Path, cut: float) -> None:
    (jail / "x").write_bytes(b"whole")
    stream = encode_entry(Entry(kind=Kind.REGULAR, path=b"x", size=100_000)) + segment_header(0, 100_000) + bytes(100_000) + encode_file_end(100_000)
    with pytest.raises(GuestError, match="in the middle"):
        write(jail, [stream[: int(len(stream) * cut)]])
    assert [path.name for path in jail.iterdir()] == ["x"] and (jail / "x").read_bytes() == b"whole"


@settings(max_examples=60)
@given(st.lists(st.sampled_from([b"a", b"b", b"a/b", b"b/a", b"a/b/c"]), min_size=1, max_size=8), st.data())
def test_any_order_of_entries_stays_inside(tmp_path_factory: pytest.TempPathFactory, paths: list[bytes], data: st.DataObject) -> None:
    top = tmp_path_factory.mktemp("any")
    (top / "jail").mkdir()
    (top / "victim").write_bytes(b"untouched")
    stream = b""
    for path in paths:
        kind = data.draw(st.integers(0, 3))
        target = data.draw(st.sampled_from([b"..", b"../victim", b"a", b"/", b"b/.."]))
        made = (file(path), link(path, target), encode_entry(Entry(kind=Kind.DIRECTORY, path=path)), hard(path, b"a"))
        stream += made[kind]
    with contextlib.suppress(BangerError):
        write(top / "jail", [stream + END])
    assert sorted(path.name for path in top.iterdir()) == ["jail", "victim"]
    assert (top / "victim").read_bytes() == b"untouched" and (top / "victim").stat().st_nlink == 1


# -- tar --------------------------------------------------------------------------------------------------------------------------------------------


def test_tar_round_trip(tree: Path, tmp_path: Path) -> None:
    out = io.BytesIO()
    TarWriter(out).write(read(tree, b"top"))
    (tmp_path / "by-tar").mkdir()
    subprocess.run(["tar", "-xf", "-", "-C", tmp_path / "by-tar"], input=out.getvalue(), check=True)
    expected = {name: (*value[:1], value[2]) for name, value in look(tree).items()}
    assert {name: (*value[:1], value[2]) for name, value in look(tmp_path / "by-tar/top").items()} == expected
    (tmp_path / "back").mkdir()
    write(tmp_path / "back", TarReader(archive=False, on_skipped=lambda _path, _why: None).read(io.BytesIO(out.getvalue())))
    assert {name: (*value[:1], value[2]) for name, value in look(tmp_path / "back/top").items()} == expected


def tar_of(*members: tuple[str, bytes, str]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, kind, target in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            tar.addfile(info)
    return out.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no tar at all", "not a tar stream"),
        (tar_of(("../x", tarfile.REGTYPE, "")), "leads out"),
        (tar_of(("x", tarfile.LNKTYPE, "../../etc/passwd")), "leads out"),
        (tar_of((".", tarfile.REGTYPE, "")), "without a name"),
    ],
)
def test_bad_tar_streams(content: bytes, message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        list(TarReader(archive=False, on_skipped=lambda _path, _why: None).read(io.BytesIO(content)))


def test_tar_paths_lose_their_root_and_devices_are_told() -> None:
    told: list[bytes] = []
    reader = TarReader(archive=True, on_skipped=lambda path, _why: told.append(path))
    stream = b"".join(reader.read(io.BytesIO(tar_of(("./", tarfile.DIRTYPE, ""), ("/abs/x", tarfile.REGTYPE, ""), ("dev", tarfile.CHRTYPE, "")))))
    assert told == [b"dev"] and b"abs/x" in stream and b"/abs" not in stream and reader.entries == 2
