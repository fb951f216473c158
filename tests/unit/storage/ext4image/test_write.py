"""Whole images: e2fsck is content, and the kernel reads what was meant."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from banger.host.files import allocated_bytes, sha256_of
from banger.host.run import SEARCH_PATH
from banger.model.errors import BadRequest, BangerError
from banger.model.sizes import GIB, MIB
from banger.storage.ext4image.nodes import Attributes, Device, Directory, Fifo, File, ImageSize, Node, Segment, Symlink
from banger.storage.ext4image.write import write_image
from tests.treemanifest import check_image, mounted, read_image

MTIME = 1_700_000_000_123_456_789
SECOND = 10**9
CAPABILITY = b"\x01\x00\x00\x02\x00\x20" + bytes(14)
ACL = bytes.fromhex("0200000001000700ffffffff02000600e803000004000500ffffffff10000700ffffffff20000400ffffffff")


def attributes(mode: int = 0o644, uid: int = 0, gid: int = 0, mtime_ns: int = MTIME, xattrs: tuple[tuple[bytes, bytes], ...] = ()) -> Attributes:
    return Attributes(mode, uid, gid, mtime_ns, xattrs)


def root(**children: Node) -> Directory:
    return Directory(attributes(0o755), {name.encode(): node for name, node in children.items()})


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A descriptor with 3 MiB of bytes that do not repeat."""
    path = tmp_path_factory.mktemp("source") / "source"
    path.write_bytes(b"".join(number.to_bytes(4, "big") for number in range(3 * MIB // 4)))
    fd = os.open(path, os.O_RDONLY)
    yield fd
    os.close(fd)


def written(place: Path, tree: Directory, name: str = "image.ext4") -> ImageSize:
    size = write_image(place / name, tree, label="test")
    check_image(place / name)
    assert size.size_bytes == (place / name).stat().st_size
    assert size.digest == sha256_of(place / name)
    return size


def test_an_empty_image(tmp_path: Path) -> None:
    size = written(tmp_path, root())
    assert size == ImageSize(size_bytes=MIB, content_bytes=0, inodes=1, digest=size.digest)


def test_the_features_are_those_of_every_image(tmp_path: Path) -> None:
    write_image(tmp_path / "i", root(), label="test")
    shown = subprocess.run(["dumpe2fs", "-h", tmp_path / "i"], env={"PATH": SEARCH_PATH}, capture_output=True, text=True).stdout
    features = next(line for line in shown.splitlines() if line.startswith("Filesystem features:"))
    assert set(features.split()[2:]) == set("ext_attr dir_index filetype extent 64bit flex_bg sparse_super large_file huge_file dir_nlink extra_isize".split())
    assert "Filesystem state:         clean" in shown


def test_same_tree_same_bytes_whatever_its_order(tmp_path: Path, source: int) -> None:
    nodes: dict[str, Node] = {f"n{number}": File(attributes(), 5000 + number, source, number) for number in range(50)}
    one = written(tmp_path, root(**nodes), "one")
    two = written(tmp_path, root(**dict(reversed(nodes.items()))), "two")
    other = written(tmp_path, root(**nodes | {"n1": File(attributes(0o600), 5001, source, 1)}), "other")
    assert one == two
    assert one.digest != other.digest
    uuids = [subprocess.run(["dumpe2fs", "-h", tmp_path / name], env={"PATH": SEARCH_PATH}, capture_output=True, text=True).stdout for name in ("one", "other")]
    assert len({line for text in uuids for line in text.splitlines() if line.startswith("Filesystem UUID")}) == 2


@pytest.mark.root
def test_every_kind_of_node(tmp_path: Path, source: int) -> None:
    shared = File(attributes(0o4755, 70_000, 4_000_000_000, xattrs=((b"security.capability", CAPABILITY), (b"user.a", b"1"))), 5000, source, 17)
    tree = root(
        one=shared,
        two=shared,
        d=Directory(attributes(0o1777, xattrs=((b"system.posix_acl_access", ACL), (b"user.big", b"v" * 3000))), {b"three": shared}),
        inline=Symlink(attributes(0o777, 1, 2), b"t" * 59),
        block=Symlink(attributes(0o777), b"t" * 60),
        longest=Symlink(attributes(0o777), b"t" * 4095),
        old=File(attributes(mtime_ns=-5 * SECOND - 1), 0),
        new=File(attributes(mtime_ns=9_000_000_000 * SECOND + 7), 1, source),
        null=Device(attributes(0o666), 1, 3, False),
        disk=Device(attributes(0o660, 0, 6), 259, 70_000, True),
        pipe=Fifo(attributes(0o600)),
    )
    assert written(tmp_path, tree).content_bytes == 5001
    found = read_image(tmp_path / "image.ext4")
    content = os.pread(source, 5000, 17)
    with mounted(tmp_path / "image.ext4") as place:
        assert (place / "two").read_bytes() == content
        assert b"\x01\x00\x07\x00" in os.getxattr(place / "d", "system.posix_acl_access")
    assert found[b"one"].names == (b"d/three", b"one", b"two")
    assert (found[b"one"].mode, found[b"one"].uid, found[b"one"].gid, found[b"one"].mtime_ns) == (0o4755, 70_000, 4_000_000_000, MTIME)
    assert found[b"one"].xattrs == {"security.capability": CAPABILITY, "user.a": b"1"}
    assert found[b"d"].xattrs == {"system.posix_acl_access": ACL, "user.big": b"v" * 3000}
    assert [len(found[name].target) for name in (b"inline", b"block", b"longest")] == [59, 60, 4095]
    assert (found[b"old"].mtime_ns, found[b"new"].mtime_ns) == (-5 * SECOND - 1, 9_000_000_000 * SECOND + 7)
    assert (found[b"null"].device, found[b"disk"].device) == (os.makedev(1, 3), os.makedev(259, 70_000))
    assert [found[name].type for name in (b"null", b"disk", b"pipe")] == [stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO]


@pytest.mark.root
def test_sparse_files(tmp_path: Path, source: int) -> None:
    """Many pieces, far apart: a tree of two levels; more than 2 GiB; nothing but a hole."""
    pieces = tuple(Segment(number * 12288 + 100, number, 700) for number in range(2000))
    tree = root(
        pieces=File(attributes(), 2000 * 12288, source, 0, pieces),
        far=File(attributes(), 20 * GIB, source, 0, (Segment(3, 0, 10), Segment(20 * GIB - 5000, 50, 5000))),
        hole=File(attributes(), 5 * GIB, source, 0, ()),
    )
    size = written(tmp_path, tree)
    assert size.size_bytes < 20 * MIB
    assert size.content_bytes == 2000 * 700 + 5010
    with mounted(tmp_path / "image.ext4") as place:
        assert [(place / name).stat().st_size for name in ("far", "hole")] == [20 * GIB, 5 * GIB]
        assert allocated_bytes(place / "hole") == 0
        assert allocated_bytes(place / "far") <= 4 * 4096
        with (place / "pieces").open("rb") as file:
            for piece in pieces:
                file.seek(piece.offset - 50)
                assert file.read(800) == bytes(50) + os.pread(source, 700, piece.source_offset) + bytes(50)
        with (place / "far").open("rb") as file:
            assert file.read(20) == bytes(3) + os.pread(source, 10, 0) + bytes(7)
            file.seek(20 * GIB - 5000)
            assert file.read() == os.pread(source, 5000, 50)


@pytest.mark.root
def test_several_groups(tmp_path: Path) -> None:
    """Copies of the superblock lie in the middle of what is written: of directories, of a file, of the tables."""
    path = tmp_path / "source"
    with path.open("wb") as file:
        file.truncate(300 * MIB)
        for offset in range(0, 300 * MIB, 1_000_003):
            file.seek(offset)
            file.write(offset.to_bytes(8, "big"))
    fd = os.open(path, os.O_RDONLY)
    try:
        written(tmp_path, root(big=File(attributes(), 300 * MIB, fd), small=File(attributes(), 9, fd)))
    finally:
        os.close(fd)
    with mounted(tmp_path / "image.ext4") as place:
        assert sha256_of(place / "big") == sha256_of(path)


def test_more_inodes_than_one_group_has(tmp_path: Path) -> None:
    """And directories of many blocks, and one with more subdirectories than a link count holds."""
    wide = Directory(attributes(0o755), {b"%d" % number: Directory(attributes(0o755)) for number in range(66_000)})
    many = Directory(attributes(0o755), {b"%0200d" % number: File(attributes(), 0) for number in range(3000)})
    size = written(tmp_path, root(wide=wide, many=many))
    assert size.inodes == 69_003


def test_lost_and_found_of_the_tree_is_used(tmp_path: Path) -> None:
    tree = Directory(attributes(0o755), {b"lost+found": Directory(attributes(0o750, 5), {b"found": File(attributes(), 0)})})
    assert written(tmp_path, tree).inodes == 2
    shown = subprocess.run(["debugfs", "-R", "stat lost+found", tmp_path / "image.ext4"], env={"PATH": SEARCH_PATH}, capture_output=True, text=True).stdout
    assert "Inode: 11 " in shown
    assert "Mode:  0750" in shown


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        (Directory(attributes(), {b"lost+found": Fifo(attributes())}), "must be a directory"),
        (root(a=File(attributes(xattrs=((b"user.a", b"v" * 4096),)), 0)), "do not fit"),
        (root(a=File(attributes(xattrs=((b"com.apple.x", b"v"),)), 0)), "no place for"),
        (root(a=File(attributes(xattrs=((b"system.posix_acl_access", b"v"),)), 0)), "malformed"),
    ],
)
def test_what_ext4_cannot_hold(tmp_path: Path, tree: Directory, words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        write_image(tmp_path / "i", tree, label="test")
    assert not (tmp_path / "i").exists()


def test_too_many_hard_links(tmp_path: Path) -> None:
    node = Fifo(attributes())
    written(tmp_path, Directory(attributes(), {b"%d" % number: node for number in range(65_000)}))
    with pytest.raises(BadRequest, match="more than 65000 hard links"):
        write_image(tmp_path / "i", Directory(attributes(), {b"%d" % number: node for number in range(65_001)}), label="test")


def test_a_label_that_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="too long"):
        write_image(tmp_path / "i", root(), label="x" * 17)


def test_a_source_that_ends_early_leaves_nothing(tmp_path: Path, source: int) -> None:
    with pytest.raises(BangerError, match="became shorter"):
        write_image(tmp_path / "i", root(a=File(attributes(), 4 * MIB, source)), label="test")
    assert not (tmp_path / "i").exists()


def test_an_existing_file_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "i").write_text("mine")
    with pytest.raises(FileExistsError):
        write_image(tmp_path / "i", root(), label="test")
    assert (tmp_path / "i").read_text() == "mine"


NAMES = st.binary(min_size=1, max_size=40).filter(lambda name: b"/" not in name and b"\0" not in name and name not in {b".", b"..", b"lost+found"})
XATTRS = st.dictionaries(st.sampled_from([b"user.a", b"user.bb", b"trusted.c", b"security.d"]), st.binary(max_size=200)).map(lambda found: tuple(found.items()))
ATTRIBUTES = st.builds(Attributes, st.integers(0, 0o7777), st.integers(0, 2**32 - 2), st.integers(0, 2**32 - 2), st.integers(-(2**63), 2**65), XATTRS)
LEAVES = st.one_of(
    st.builds(lambda node, size, segments: File(node, size, -1, 0, segments), ATTRIBUTES, st.integers(0, 2**40), st.just(())),
    st.builds(Symlink, ATTRIBUTES, st.binary(min_size=1, max_size=100).filter(lambda target: b"\0" not in target)),
    st.builds(Device, ATTRIBUTES, st.integers(0, 4095), st.integers(0, 2**20 - 1), st.booleans()),
    st.builds(Fifo, ATTRIBUTES),
)
TREES = st.recursive(LEAVES, lambda nodes: st.builds(Directory, ATTRIBUTES, st.dictionaries(NAMES, nodes, max_size=6)), max_leaves=30)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.builds(Directory, ATTRIBUTES, st.dictionaries(NAMES, TREES, max_size=8)))
@example(Directory(Attributes(0o755, 0, 0, 11_000_000_000 * SECOND, ()), {b"late": Fifo(Attributes(0o644, 0, 0, 12_900_000_000 * SECOND, ()))}))
def test_any_tree_is_clean(tmp_path: Path, tree: Directory) -> None:
    (tmp_path / "image.ext4").unlink(missing_ok=True)  # of an example that failed
    written(tmp_path, tree)
    (tmp_path / "image.ext4").unlink()
