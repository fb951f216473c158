"""The reader against what Python's tarfile and GNU tar write."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from banger.image.flatten.entry import Entry, Kind
from banger.image.flatten.header import number, parse_header
from banger.image.flatten.limits import BadArchive, Limits
from banger.image.flatten.pax import parse_records
from banger.image.flatten.tar import read_entries
from banger.storage.ext4image.nodes import Segment
from tests.treemanifest import read_tree

from .tars import MTIME, Member, directory, file, hardlink, pack, symlink


class Bytes:
    """An archive in memory."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def read(self, offset: int, size: int) -> bytes:
        return self._content[offset : offset + size]


def entries_of(tar: bytes) -> list[Entry]:
    return list(read_entries(Bytes(tar), Limits()))


def content_of(tar: bytes, entry: Entry) -> bytes:
    segments = (Segment(0, entry.offset, entry.size),) if entry.segments is None else entry.segments
    content = bytearray(entry.size)
    for segment in segments:
        content[segment.offset : segment.offset + segment.length] = tar[segment.source_offset : segment.source_offset + segment.length]
    return bytes(content)


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_formats(format: int) -> None:
    members: list[Member] = [
        directory("d/"), file("d/a", "content"), symlink("s", "d/a"), hardlink("h", "d/a"), file("/".join(["long"] * 40), "x"),
        Member(name="c", type=tarfile.CHRTYPE, device=(4, 64)), Member(name="b", type=tarfile.BLKTYPE, device=(8, 1)), Member(name="p", type=tarfile.FIFOTYPE),
        Member(name="last", content=b"z" * 1000, mode=0o6755, uid=1000, gid=2000),
    ]  # fmt: skip
    tar = pack(members, format=format)
    entries = entries_of(tar)
    assert [entry.name.rstrip(b"/") for entry in entries] == [member.name.rstrip("/").encode() for member in members]
    assert [entry.kind for entry in entries] == [
        Kind.DIRECTORY, Kind.FILE, Kind.SYMLINK, Kind.HARDLINK, Kind.FILE, Kind.CHARACTER, Kind.BLOCK, Kind.FIFO, Kind.FILE,
    ]  # fmt: skip
    assert [entry.device for entry in entries[5:7]] == [(4, 64), (8, 1)]
    assert (entries[2].link, entries[3].link) == (b"d/a", b"d/a")
    last = entries[-1]
    assert (last.mode, last.uid, last.gid, content_of(tar, last)) == (0o6755, 1000, 2000, b"z" * 1000)
    assert last.mtime_ns == (1_700_000_000_250_000_000 if format == tarfile.PAX_FORMAT else int(MTIME) * 10**9)


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_what_ustar_cannot_say(format: int) -> None:
    """Long names and links, ids beyond octal, times before 1970, sizes beyond 8 GiB."""
    name, target = "n/" * 300 + "end", "t/" * 400
    tar = pack([Member(name=name, uid=5_000_000, gid=3_000_000_000, mtime=-1000), symlink("s", target), hardlink("h", name)], format=format)
    one, two, three = entries_of(tar)
    assert (one.name, one.uid, one.gid, one.mtime_ns) == (name.encode(), 5_000_000, 3_000_000_000, -1000 * 10**9)
    assert (two.link.rstrip(b"/"), three.link) == (target.rstrip("/").encode(), name.encode())
    big = pack([Member(name="big", pax={"size": str(9 * 2**30)})])
    with pytest.raises(BadArchive, match="cut short"):
        entries_of(big)


def test_extended_attributes() -> None:
    records = {"SCHILY.xattr.user.a": "1=2\n3", "LIBARCHIVE.xattr.user.b%20c": "AAEC", "LIBARCHIVE.xattr.user.a": "eA"}
    [entry] = entries_of(pack([Member(name="a", pax=records)]))
    assert entry.xattrs == ((b"user.a", b"1=2\n3"), (b"user.b c", b"\0\1\2"))


def test_global_headers_hold_for_all_that_follow() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", pax_headers={"uid": "77", "comment": "of a commit"}) as archive:
        archive.addfile(tarfile.TarInfo("a"))
        archive.addfile(tarfile.TarInfo("b"))
    assert [(entry.name, entry.uid) for entry in entries_of(out.getvalue())] == [(b"a", 77), (b"b", 77)]


@pytest.mark.parametrize("format", [["--format=gnu"], *(["--format=pax", f"--sparse-version={version}"] for version in ("0.0", "0.1", "1.0"))])
def test_sparse_files_of_gnu_tar(tmp_path: Path, format: Sequence[str]) -> None:
    holes = [(0, b""), (4096 * 10, b"x" * 5000), (2**20, b"y" * 4096), *((2**21 + number * 65536, b"%d" % number) for number in range(60))]
    with (tmp_path / "sparse").open("wb") as sparse:
        for offset, data in holes:
            sparse.seek(offset)
            sparse.write(data)
        sparse.truncate(2**24)
    (tmp_path / "after").write_bytes(b"after")
    subprocess.run(["tar", "-C", tmp_path, "--sparse", *format, "-cf", tmp_path / "t.tar", "sparse", "after"], check=True)
    tar = (tmp_path / "t.tar").read_bytes()
    sparse_entry, after = entries_of(tar)
    assert (sparse_entry.name, sparse_entry.size) == (b"sparse", 2**24)
    assert sparse_entry.segments is not None
    assert sum(segment.length for segment in sparse_entry.segments) < 2**20
    assert content_of(tar, sparse_entry) == (tmp_path / "sparse").read_bytes()
    assert content_of(tar, after) == b"after"


@pytest.mark.parametrize(
    "map",
    ["0,5,3,2", "5,1,0,1", "0,5", "0,3,3", "0,9", "-1,2", "0,2,999999,1", "x", "0,1," * 100_001 + "0,1"],
    ids=["overlap", "order", "more than stored", "odd", "behind the end", "negative", "far behind the end", "no number", "too many"],
)
def test_wrong_maps_of_sparse_files(map: str) -> None:
    member = Member(name="s", content=b"abcd", pax={"GNU.sparse.map": map, "GNU.sparse.size": "8", "GNU.sparse.name": "s"})
    with pytest.raises(BadArchive, match=r"sparse file|cut short|is larger"):
        entries_of(pack([member]))


def test_ends() -> None:
    """Without the zeros at the end, without the padding, and with rubbish behind them."""
    tar = pack([file("a", "1"), file("b", "22")], format=tarfile.USTAR_FORMAT)
    bare = tar.rstrip(b"\0")
    for version in (bare, bare + b"\0" * (-len(bare) % 512), bare + b"\0" * (-len(bare) % 512 + 512), tar + b"rubbish"):
        assert [entry.name for entry in entries_of(version)] == [b"a", b"b"]
    assert entries_of(b"") == entries_of(bytes(1024)) == []
    for cut in (100, 512, 1025, len(bare) - 1):
        with pytest.raises(BadArchive, match="cut short"):
            entries_of(bare[:cut])
    with pytest.raises(BadArchive, match="data follows an empty header"):
        entries_of(bytes(512) + tar)


def test_old_archives() -> None:
    """V7 has no magic; a name that ends in a slash is a directory; files that lie together are files."""
    out = []
    for name, kind in ((b"d/", b"\0"), (b"f", b"\0"), (b"g", b"7")):
        header = bytearray(tarfile.TarInfo(name.decode()).tobuf(tarfile.USTAR_FORMAT))
        header[156:157] = kind
        header[257:265] = bytes(8)
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        out.append(bytes(header))
    assert [(entry.name, entry.kind) for entry in entries_of(b"".join(out))] == [(b"d/", Kind.DIRECTORY), (b"f", Kind.FILE), (b"g", Kind.FILE)]


def test_signed_checksums() -> None:
    header = bytearray(tarfile.TarInfo("\u00fc\u00fc").tobuf(tarfile.USTAR_FORMAT, "utf-8"))
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(byte - 256 if byte > 127 else byte for byte in header)
    assert parse_header(bytes(header)).name == "\u00fc\u00fc".encode()
    header[0] ^= 1
    with pytest.raises(BadArchive, match="not a tar archive"):
        parse_header(bytes(header))


@given(st.integers(0, 2**62))
def test_numbers(value: int) -> None:
    assert number(b"\x80" + value.to_bytes(11, "big")) == value
    if value < 8**11:
        assert number(b"%011o\0" % value) == number(b"%11o " % value) == value


@pytest.mark.parametrize("field", [b"12x", b"9", b"-1", b"1_0", b"0o7", b"\xff" * 8, b"\x80" + b"\xff" * 11])
def test_what_is_no_number(field: bytes) -> None:
    with pytest.raises(BadArchive, match="is not a number"):
        number(field)


@pytest.mark.parametrize(
    "records", [b"5 a=b", b"6 a=b\n6 a", b"0 a=b\n", b"99999999 a=b\n", b"a=b\n", b"5 a=\0\n"[:-1], b"4 =\n\n", b"11 path=\0a\n", b"7 a=b\n"]
)
def test_malformed_records(records: bytes) -> None:
    with pytest.raises(BadArchive, match="malformed"):
        parse_records(records)


def test_a_huge_extended_header_is_not_read() -> None:
    info = tarfile.TarInfo("x")
    info.type, info.size = b"x", 2**33
    with pytest.raises(BadArchive, match="larger than we take"):
        entries_of(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))


@given(st.lists(st.tuples(st.text("ab/.\u00fc\n", min_size=1, max_size=150), st.binary(max_size=600), st.integers(0, 0o7777)), max_size=6))
def test_what_tarfile_writes_is_read(files: list[tuple[str, bytes, int]]) -> None:
    members = [Member(name=name, content=content, mode=mode) for name, content, mode in files]
    tar = pack(members)
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        expected = [(info.name.encode().rstrip(b"/"), info.mode, info.size) for info in archive]
    entries = entries_of(tar)
    assert [(entry.name.rstrip(b"/"), entry.mode, entry.size) for entry in entries] == expected
    assert [content_of(tar, entry) for entry in entries] == [content for _, content, _ in files]


def test_gnu_tar_of_a_tree(tmp_path: Path) -> None:
    """With its default options, as people pack a root file system."""
    tree = tmp_path / "tree"
    (tree / "d").mkdir(parents=True)
    (tree / "d/f").write_bytes(os.urandom(3000))
    os.link(tree / "d/f", tree / "d/g")
    (tree / "s").symlink_to("d/f")
    os.mkfifo(tree / "p")
    subprocess.run(["tar", "-C", tree, "-cf", tmp_path / "t.tar", "."], check=True)
    names = {entry.name.removeprefix(b"./").rstrip(b"/") for entry in entries_of((tmp_path / "t.tar").read_bytes())}
    assert names == set(read_tree(tree))
