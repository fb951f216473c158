"""Growing real ext4 files: the content stays, and nothing else than a whole growth is ever to be seen."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
from pathlib import Path

import pytest

from banger.host.locks import try_lock
from banger.host.paths import VMLayout
from banger.host.run import run as real_run
from banger.model.errors import BadRequest, CommandFailed, NoSpace
from banger.model.records import VMSpec
from banger.storage import grow
from banger.storage.ext4 import make_disk
from banger.storage.grow import grow_disk, settle_disk, undo_file
from banger.storage.overlay import OverlayDisk
from banger.storage.workdisk import grow_work_disk, prepare_work_disk

MIB = 1 << 20
CONTENT = os.urandom(300_000)


def output_of(*words: str | Path) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def size_of_filesystem(disk: Path) -> int:
    blocks = re.search(r"Block count:\s+(\d+)", output_of("dumpe2fs", "-h", disk))
    assert blocks is not None
    return int(blocks[1]) * 4096


def put_file(disk: Path) -> None:
    source = disk.with_name("source")
    source.write_bytes(CONTENT)
    output_of("debugfs", "-w", "-R", f"write {source} precious", disk)
    source.unlink()


def assert_whole(disk: Path) -> None:
    """The file system is clean and still holds what ``put_file`` put there."""
    output_of("e2fsck", "-fn", disk)
    copy = disk.with_name("copy")
    output_of("debugfs", "-R", f"dump precious {copy}", disk)
    assert copy.read_bytes() == CONTENT
    copy.unlink()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "vm").mkdir(mode=0o700)
    return tmp_path / "vm"


@pytest.fixture
async def disk(place: Path) -> Path:
    path = place / "root.ext4"
    await make_disk(path, 64 * MIB, label="x", uid=-1)
    put_file(path)
    return path


async def test_it_grows_and_the_content_stays(disk: Path) -> None:
    for _ in range(2):
        await grow_disk(disk, 20 << 30, uid=-1)
        assert (disk.stat().st_size, size_of_filesystem(disk)) == (20 << 30, 20 << 30)
        assert_whole(disk)
    assert disk.stat().st_blocks * 512 < 16 * MIB
    assert os.listdir(disk.parent) == [disk.name]


async def test_it_never_shrinks(disk: Path) -> None:
    await grow_disk(disk, 32 * MIB, uid=-1)
    assert (disk.stat().st_size, size_of_filesystem(disk)) == (64 * MIB, 64 * MIB)


async def test_a_disk_that_is_not_made_yet(place: Path) -> None:
    await grow_disk(place / "none", 1 << 30, uid=-1)
    assert os.listdir(place) == []


async def test_a_file_system_that_was_not_shut_down_is_repaired_first(disk: Path) -> None:
    output_of("debugfs", "-w", "-R", "ssv state 0", disk)
    await grow_disk(disk, 128 * MIB, uid=-1)
    assert size_of_filesystem(disk) == 128 * MIB
    assert_whole(disk)


async def test_what_is_no_file_system_is_left_alone(place: Path) -> None:
    disk = place / "root.ext4"
    disk.write_bytes(b"precious" * 10_000)
    with pytest.raises(CommandFailed, match="e2fsck"):
        await grow_disk(disk, 1 << 30, uid=-1)
    assert disk.read_bytes() == b"precious" * 10_000
    assert os.listdir(place) == [disk.name]


async def test_a_size_that_no_file_can_have(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grow, "_GROWTH_PER_BYTE", 1 << 62)
    with pytest.raises(BadRequest, match="larger than a file may be"):
        await grow_disk(disk, 1 << 62, uid=-1)
    assert disk.stat().st_size == 64 * MIB
    assert_whole(disk)


async def test_a_growth_that_fails_at_its_end_is_taken_back(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("banger.storage.grow.os.fsync", lambda fd, real=os.fsync: real(fd) if undo_gone() else fail())

    def undo_gone() -> bool:
        return size_of_filesystem(disk) == 64 * MIB

    def fail() -> None:
        raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output"):
        await grow_disk(disk, 1 << 30, uid=-1)
    assert (disk.stat().st_size, size_of_filesystem(disk)) == (64 * MIB, 64 * MIB)
    assert_whole(disk)
    assert os.listdir(disk.parent) == [disk.name]


@pytest.mark.parametrize("again", [False, True])
async def test_a_growth_that_a_dead_daemon_left_is_taken_back(disk: Path, again: bool) -> None:
    """As after a SIGKILL: the disk half or wholly grown, the undo file still there."""
    os.truncate(disk, 1 << 30)
    output_of("e2fsck", "-fp", disk)
    output_of("resize2fs", "-z", undo_file(disk), disk)
    assert size_of_filesystem(disk) == 1 << 30
    if again:
        await grow_disk(disk, 2 << 30, uid=-1)
        assert size_of_filesystem(disk) == 2 << 30
    else:
        await settle_disk(disk, uid=-1)
        assert size_of_filesystem(disk) == 64 * MIB
    assert_whole(disk)
    assert not undo_file(disk).exists()


@pytest.mark.parametrize("undo", [b"", b"cut"])
async def test_an_undo_file_that_says_nothing(disk: Path, undo: bytes) -> None:
    undo_file(disk).write_bytes(undo)
    if undo:
        with pytest.raises(CommandFailed, match="e2undo"):
            await settle_disk(disk, uid=-1)
    else:
        await settle_disk(disk, uid=-1)
        assert not undo_file(disk).exists()
    assert_whole(disk)


async def test_it_waits_for_a_tool_that_outlived_its_daemon(disk: Path) -> None:
    held = try_lock(disk)
    assert held is not None
    growing = asyncio.create_task(grow_disk(disk, 128 * MIB, uid=-1))
    await asyncio.sleep(0.15)
    assert disk.stat().st_size == 64 * MIB
    os.close(held)
    await growing
    assert size_of_filesystem(disk) == 128 * MIB


async def test_a_start_settles_both_disks(place: Path) -> None:
    files = VMLayout(place)
    spec = VMSpec(vcpu_count=1, memory_mib=128, system_overlay_bytes=64 * MIB, work_disk_bytes=64 * MIB)
    await OverlayDisk().prepare(files, Path("base"), spec, -1)
    await prepare_work_disk(files, spec, -1)
    larger = VMSpec(vcpu_count=1, memory_mib=128, system_overlay_bytes=96 * MIB, work_disk_bytes=128 * MIB)
    await OverlayDisk().grow(files, larger, -1)
    await grow_work_disk(files, larger, -1)
    assert (size_of_filesystem(files.overlay_disk), size_of_filesystem(files.work_disk)) == (96 * MIB, 128 * MIB)
    for disk in (files.overlay_disk, files.work_disk):
        undo_file(disk).touch()
    await OverlayDisk().prepare(files, Path("base"), larger, -1)
    await prepare_work_disk(files, larger, -1)
    assert sorted(os.listdir(place)) == ["root.ext4", "system.overlay"]


@pytest.mark.root
async def test_the_tools_run_as_the_owner_of_the_disk(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They read what a guest has written."""
    os.chown(disk, 54321, 54321)
    uids = []

    async def run(*words: object, **options: object) -> object:
        uids.append(options["uid"])
        return await real_run(*words, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(grow, "run", run)
    await grow_disk(disk, 128 * MIB, uid=54321)
    assert uids == [54321, 54321]
    assert (disk.stat().st_uid, size_of_filesystem(disk)) == (54321, 128 * MIB)
    assert_whole(disk)


@pytest.mark.root
@pytest.mark.parametrize("spare", [MIB, 15 * MIB])
async def test_on_a_full_disk_nothing_is_touched(disk: Path, tmp_path: Path, spare: int) -> None:
    image, small = tmp_path / "small.img", tmp_path / "mounted"
    small.mkdir()
    image.touch()
    os.truncate(image, 64 * MIB)
    output_of("mkfs.ext4", "-q", "-F", "-m", "0", image)
    output_of("mount", "-o", "loop", image, small)
    try:
        moved = small / "root.ext4"
        output_of("cp", "--sparse=always", disk, moved)
        status = os.statvfs(small)
        output_of("fallocate", "-l", str(status.f_bavail * status.f_frsize - spare), small / "ballast")
        before = moved.read_bytes()
        with pytest.raises(NoSpace, match=r"growing root\.ext4"):
            await grow_disk(moved, 100 << 30, uid=-1)
        assert moved.read_bytes() == before
        assert not undo_file(moved).exists()
    finally:
        output_of("umount", small)
