"""What strangers pack: each a clear error, and nothing left behind."""

from __future__ import annotations

import asyncio
import gzip
import os
import subprocess
import tarfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from banger.host.zstd import compress
from banger.image.flatten.limits import BadArchive, Limits
from banger.image.flatten.pipeline import Flattened, flatten, flatten_tar
from banger.image.oci.types import Compression, Layer
from banger.model.errors import BadRequest, BangerError, NoSpace
from banger.model.progress import silent
from banger.model.sizes import GIB, MIB, TIB
from tests.treemanifest import check_image

from .tars import Member, directory, file, flatten_tars, hardlink, layer_of, pack, symlink

SMALL = Limits(entries=1000, metadata_bytes=64 * 1024, ratio=100, ratio_free_bytes=1 * MIB, layer_bytes=8 * MIB, total_bytes=12 * MIB)


async def refused(place: Path, tars: Sequence[bytes], words: str, limits: Limits = SMALL, kind: type[BangerError] = BadArchive) -> None:
    with pytest.raises(kind, match=words):
        await flatten_tars(place, tars, limits=limits)
    assert sorted(path.name for path in place.iterdir() if not path.name.startswith("blob-")) == ["home", "staging"]
    assert os.listdir(place / "staging") == []


@pytest.mark.parametrize(
    ("members", "what"),
    [
        ([file("dev", "x")], "file where /dev must"),
        ([file("proc")], "file where /proc must"),
        ([file("root")], "file where /root must"),
        ([file("etc", "x")], "file where /etc must"),
        ([symlink("etc", "nowhere")], "link that leads to no directory where /etc must"),
        ([symlink("run", "var/run"), file("var/run")], "link that leads to no directory where /run must"),
    ],
)
async def test_what_machines_need_as_directories(tmp_path: Path, members: list[Member], what: str) -> None:
    await refused(tmp_path, [pack(members)], what)


async def test_links_to_directories_may_stand_there(tmp_path: Path) -> None:
    await flatten_tars(tmp_path, [pack([symlink("root", "home/me"), directory("home/me"), directory("etc")])])


async def test_the_layer_that_is_damaged_is_named(tmp_path: Path) -> None:
    whole, cut = pack([file("a", "x" * 5000)]), pack([file("b", "y" * 5000)])[:3000]
    await refused(tmp_path, [whole, cut], r"layer 2 of 2 \(sha256:[0-9a-f]+\): the archive is cut short")


BAD_MEMBERS: dict[str, tuple[list[Member], str]] = {
    "path traversal": ([file("../escape")], r"leads out of the archive: '../escape'"),
    "traversal in the middle": ([file("a/../../escape")], "leads out of the archive"),
    "absolute traversal": ([file("/../escape")], "leads out of the archive"),
    "hard link out": ([hardlink("a", "../../etc/passwd")], "leads out of the archive"),
    "hard link to the host": ([hardlink("a", "/etc/passwd")], "hard link to '/etc/passwd', which is not in the archive"),
    "hard link through a symbolic link out": ([symlink("l", "../../etc"), hardlink("a", "l/passwd")], "which is not in the archive"),
    "hard link to a directory": ([directory("d"), hardlink("a", "d")], "which is a directory"),
    "hard link to nothing": ([hardlink("a", "")], "which is not in the archive"),
    "below a file": ([file("a", "x"), file("a/b")], "lies below 'a', which is not a directory"),
    "symbolic links in a circle": ([symlink("a", "b"), symlink("b", "a"), file("a/x")], "too many symbolic links"),
    "symbolic link to itself": ([symlink("a", "a"), file("a/x")], "too many symbolic links"),
    "the root as a link": ([symlink("./", "/etc")], "makes its root a symlink"),
    "the root as a file": ([file(".")], "makes its root a file"),
    "whiteout of a parent": (
        [directory("a/b"), file("a/b/.wh...")],
        r"layer 1 of 1 \(sha256:\w+\): a whiteout of nothing, or .* directory: 'a/b/\.wh\.\.\.'",
    ),
    "whiteout of the directory itself": ([directory("a"), file("a/.wh..")], "whiteout of nothing"),
    "whiteout of nothing": ([file(".wh.")], "whiteout of nothing"),
    "long name": ([file("n" * 256)], "name of 256 bytes"),
    "long path": ([file("/".join(["n" * 200] * 30))], "longer than Linux allows"),
    "long target": ([symlink("a", "t" * 4096)], "target of 4096 bytes"),
    "nested too deep": ([file("/".join("d" * 600))], "nested deeper than 512"),
    "nested by links": ([file("/".join("d" * 300) + "/x"), symlink("l", "/".join("d" * 300)), file("l/" + "/".join("e" * 300))], "nested deeper"),
    "impossible device": ([Member(name="d", type=tarfile.CHRTYPE, device=(5000, 1))], "5000:1"),
    "an unknown type": ([Member(name="d", type=b"D")], "unknown type b'D': 'd'"),
    "attributes that do not fit": ([Member(name="a", pax={"SCHILY.xattr.user.a": "v" * 5000})], "'a': extended attributes of .* do not fit"),
    "too many attributes": ([Member(name="a", pax={f"SCHILY.xattr.user.{n}": "" for n in range(100)})], "100 extended attributes"),
    "a malformed access list": ([Member(name="a", pax={"SCHILY.xattr.system.posix_acl_access": "x"})], "malformed"),
    "lost+found as a file": ([file("lost+found")], "must be a directory"),
    "too many entries": ([file(str(number)) for number in range(1001)], "more than 1000 entries"),
    "many implied directories": ([file(f"{number}/a/b/c") for number in range(400)], "more than 1000 entries"),
    "too much metadata": ([symlink(str(number), "t" * 4000) for number in range(20)], "longer than 65536 bytes"),
    "a number that is none": ([Member(name="a", pax={"size": "1e9"})], "'size' is '1e9'"),
    "a huge id": ([Member(name="a", pax={"uid": "4294967295"})], "not the id of a user"),
    "a file that is too large": ([Member(name="a", pax={"size": str(2 * TIB)})], "larger than we take"),
    "content that is cut short": ([Member(name="a", pax={"size": "5000000"})], "cut short|checksum"),
}


@pytest.mark.parametrize("case", BAD_MEMBERS)
async def test_refused(tmp_path: Path, case: str) -> None:
    members, words = BAD_MEMBERS[case]
    await refused(tmp_path, [pack(members)], words, kind=BadRequest if case == "lost+found as a file" else BadArchive)


async def test_work_that_repeats_itself_is_bounded(tmp_path: Path) -> None:
    """Whiteouts that leave much, again and again; long ways over symbolic links."""
    await refused(tmp_path, [pack([*(file(f"d/{number}") for number in range(500)), *(file("d/.wh..wh..opq") for _ in range(3))])], "as much work")
    links = [symlink("l", "./" * 1000), *(file(f"{'l/' * 20}{number}/x") for number in range(10))]
    await refused(tmp_path, [pack(links)], "as much work")


async def test_a_deep_directory_is_hidden(tmp_path: Path) -> None:
    deep = "/".join("d" * 500)
    await flatten_tars(tmp_path, [pack([file(f"{deep}/a")]), pack([file(".wh.d"), file("e")])])
    check_image(tmp_path / "rootfs.ext4")
    shown = subprocess.run(["/usr/sbin/debugfs", "-R", "ls -p /", tmp_path / "rootfs.ext4"], capture_output=True).stdout
    assert b"/e/" in shown
    assert b"/d/" not in shown


async def test_names_are_shown_printable(tmp_path: Path) -> None:
    with pytest.raises(BadArchive) as caught:
        await flatten_tars(tmp_path, [pack([hardlink("evil\n\x1b[31m\udcff", "no\twhere")])])
    assert caught.value.message.isprintable()
    assert "\\x1b" in caught.value.message


async def test_odd_names_and_duplicates_are_kept(tmp_path: Path) -> None:
    members = [file(name, "x") for name in ("a\nb", 'q"q', "s's", "b\\b", "\udcff\udc80", " ", "-rf", "...", "a\tb")]
    await flatten_tars(tmp_path, [pack([*members, *members])])
    check_image(tmp_path / "rootfs.ext4")
    listing = subprocess.run(["/usr/sbin/debugfs", "-R", "ls -p /", tmp_path / "rootfs.ext4"], capture_output=True).stdout
    assert [name for name in (b"a\nb", b'q"q', b"s's", b"b\\b", b"\xff\x80", b" ", b"-rf", b"...", b"a\tb") if listing.count(b"/" + name + b"/") != 1] == []


async def test_ten_million_entries_end_early(tmp_path: Path) -> None:
    """In five megabytes: all but the first thousand are never looked at."""
    header = pack([file("a")], format=tarfile.USTAR_FORMAT)[:512]
    (tmp_path / "blob").write_bytes(gzip.compress(header * 131072, 6) * 80)
    layer = replace(layer_of(tmp_path / "blob", b""), compression="gzip")
    limits = replace(SMALL, layer_bytes=8 * GIB, total_bytes=8 * GIB, ratio=100_000)
    assert "more than 1000 entries" in await outcome(tmp_path, [layer], limits)


async def outcome(place: Path, layers: Sequence[Layer], limits: Limits) -> str:
    """What flattening complains of; nothing may stay."""
    staging = place / "staging"
    staging.mkdir(exist_ok=True)
    with pytest.raises(BangerError) as caught:
        await flatten(layers, place / "rootfs.ext4", staging, limits=limits, report=silent)
    assert not (place / "rootfs.ext4").exists()
    assert os.listdir(staging) == []
    return caught.value.message


def sparse_tar(size: int) -> bytes:
    """A file of one byte at each end."""
    pieces = f"0,1,{size - 1},1"
    return pack([Member(name="big", content=b"ab", pax={"GNU.sparse.map": pieces, "GNU.sparse.size": str(size), "GNU.sparse.name": "big"})])


async def test_a_sparse_member_of_a_terabyte_takes_two_blocks(tmp_path: Path) -> None:
    made = await flatten_tars(tmp_path, [sparse_tar(TIB)])
    assert made.content_bytes == 2
    assert made.size_bytes <= 2 * MIB
    check_image(tmp_path / "rootfs.ext4")
    shown = subprocess.run(["/usr/sbin/debugfs", "-R", "stat /big", tmp_path / "rootfs.ext4"], capture_output=True, text=True).stdout
    assert f"Size: {TIB}" in shown
    assert "Blockcount: 16" in shown


async def test_a_larger_sparse_member_is_refused(tmp_path: Path) -> None:
    await refused(tmp_path, [sparse_tar(TIB + 1)], "larger than we take", Limits())


GOOD = pack([file("a", "x" * 20000), directory("d"), file("d/b", "y")])


@pytest.mark.parametrize("pack_blob", [bytes, gzip.compress, compress], ids=["none", "gzip", "zstd"])
@pytest.mark.parametrize("part", [0.3, 0.9])
async def test_truncated_blobs(tmp_path: Path, pack_blob: Callable[[bytes], bytes], part: float) -> None:
    blob = pack_blob(GOOD)
    (tmp_path / "blob").write_bytes(blob[: int(len(blob) * part)])
    assert await outcome(tmp_path, [replace(layer_of(tmp_path / "blob", GOOD), compression=kind_of(blob))], SMALL)


def kind_of(blob: bytes) -> Compression:
    kinds: dict[bytes, Compression] = {b"\x1f\x8b": "gzip", b"\x28\xb5": "zstd"}
    return kinds.get(blob[:2], "none")


@pytest.mark.parametrize("pack_blob", [bytes, gzip.compress, compress], ids=["none", "gzip", "zstd"])
async def test_corrupted_blobs(tmp_path: Path, pack_blob: Callable[[bytes], bytes]) -> None:
    """A flipped bit anywhere: found by the format, by the archive or by the diff-id."""
    blob = bytearray(pack_blob(GOOD))
    layer = replace(layer_of(write(tmp_path / "blob", bytes(blob)), GOOD), compression=kind_of(bytes(blob)))
    for at in range(3, len(blob), max(1, len(blob) // 40)):
        blob[at] ^= 0x10
        write(tmp_path / "blob", bytes(blob))
        try:
            await outcome(tmp_path, [layer], SMALL)
        except pytest.fail.Exception:
            # What a gzip header says of the time, and bits that pad it, are not content.
            assert gzip.decompress(bytes(blob)) == GOOD
            (tmp_path / "rootfs.ext4").unlink()
        blob[at] ^= 0x10


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


async def test_a_wrong_diff_id(tmp_path: Path) -> None:
    layer = layer_of(write(tmp_path / "blob", gzip.compress(GOOD)), GOOD + b"\0")
    assert "a layer is not what the image says" in await outcome(tmp_path, [layer], SMALL)


@pytest.mark.parametrize("pack_blob", [lambda data: gzip.compress(data, 9), compress], ids=["gzip", "zstd"])
async def test_a_decompression_bomb(tmp_path: Path, pack_blob: Callable[[bytes], bytes]) -> None:
    tar = pack([Member(name="zeros", content=bytes(6 * MIB))])
    layer = layer_of(write(tmp_path / "blob", pack_blob(tar)), tar)
    assert "looks like a decompression bomb" in await outcome(tmp_path, [layer], SMALL)


async def test_a_layer_and_an_image_that_are_too_large(tmp_path: Path) -> None:
    tar = pack([Member(name="random", content=os.urandom(7 * MIB))])
    layer = layer_of(write(tmp_path / "blob", tar), tar)
    assert "the layer is larger than we take (6M" in await outcome(tmp_path, [layer], replace(SMALL, layer_bytes=6 * MIB))
    assert "the image is larger than we take (12M" in await outcome(tmp_path, [layer, layer], SMALL)


async def test_too_many_layers(tmp_path: Path) -> None:
    layer = layer_of(write(tmp_path / "blob", GOOD), GOOD)
    assert "300 layers" in await outcome(tmp_path, [layer] * 300, SMALL)


async def test_what_is_no_archive(tmp_path: Path) -> None:
    page = write(tmp_path / "page", b"<!DOCTYPE html><html>" + b"x" * 2000)
    (tmp_path / "staging").mkdir()
    with pytest.raises(BadArchive, match="not a tar archive"):
        await flatten_tar(page, tmp_path / "rootfs.ext4", tmp_path / "staging", limits=SMALL, report=silent)
    assert not (tmp_path / "rootfs.ext4").exists()


@pytest.mark.parametrize("content", [b"", bytes(10240)])
async def test_an_empty_archive_is_no_root_file_system(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "staging").mkdir()
    with pytest.raises(BadArchive, match="the archive is empty"):
        await flatten_tar(write(tmp_path / "empty", content), tmp_path / "rootfs.ext4", tmp_path / "staging", limits=SMALL, report=silent)


async def test_an_empty_layer_is_fine(tmp_path: Path) -> None:
    made = await flatten_tars(tmp_path, [pack([]), b"", GOOD])
    assert made.entries == 3


@pytest.mark.root
@pytest.mark.parametrize("room", [1, 9])
async def test_a_full_disk(tmp_path: Path, room: int) -> None:
    """While decompressing, and while writing."""
    tar = pack([Member(name="random", content=os.urandom(8 * MIB))])
    layer = layer_of(write(tmp_path / "blob", gzip.compress(tar, 1)), tar)
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={room}m", "tmpfs", small], check=True)
    try:
        with pytest.raises(NoSpace, match="writing the file system" if room > 8 else "decompressing a layer"):
            await flatten([layer], small / "rootfs.ext4", small, limits=Limits(), report=silent)
        assert os.listdir(small) == []
    finally:
        subprocess.run(["umount", small], check=True)


async def test_cancelling_ends_the_threads_and_leaves_nothing(tmp_path: Path) -> None:
    tar = pack([Member(name=str(number), content=os.urandom(MIB)) for number in range(12)])
    layer = layer_of(write(tmp_path / "blob", gzip.compress(tar, 1)), tar)
    (tmp_path / "staging").mkdir()
    for delay in (0.0, 0.02, 0.1, 0.2):
        task = asyncio.ensure_future(flatten([layer], tmp_path / "rootfs.ext4", tmp_path / "staging", limits=Limits(), report=silent))
        await asyncio.sleep(delay)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            assert not (tmp_path / "rootfs.ext4").exists()
        else:
            (tmp_path / "rootfs.ext4").unlink()
        assert os.listdir(tmp_path / "staging") == []
        assert not [thread for thread in threads() if thread.startswith(("layer", "image-digest"))]


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate()]


async def test_progress_and_warnings_are_told(tmp_path: Path) -> None:
    told: list[tuple[str, float | None, bool]] = []

    def report(stage: str, message: str = "", *, progress: float | None = None, warning: bool = False) -> None:
        told.append((message, progress, warning))

    tar = pack([Member(name="a", content=os.urandom(3 * MIB), pax={"LIBARCHIVE.xattr.com.apple.x": "eA"})])
    layer = layer_of(write(tmp_path / "blob", tar), tar)
    (tmp_path / "staging").mkdir()
    made: Flattened = await flatten([layer], tmp_path / "rootfs.ext4", tmp_path / "staging", limits=Limits(), report=report)
    assert made.content_bytes == 3 * MIB
    assert any(progress is not None and 0 <= progress <= 1 for _, progress, _ in told)
    assert [message for message, _, warning in told if warning] == ["extended attributes that ext4 has no place for were left out: 'com.apple.x'"]
