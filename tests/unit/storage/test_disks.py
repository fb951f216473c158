"""The per-VM disks: real mke2fs, checked by e2fsck and debugfs."""

from __future__ import annotations

import os
import re
import stat
import subprocess
from pathlib import Path

import pytest

from banger.host.files import allocated_bytes
from banger.host.paths import VMLayout
from banger.host.run import SEARCH_PATH
from banger.model.errors import BadRequest, NoSpace
from banger.model.machine import Disk
from banger.model.records import VMSpec
from banger.model.sizes import GIB, MIB
from banger.storage.ext4 import make_disk, staging_name
from banger.storage.overlay import OverlayDisk
from banger.storage.protocol import RootDisk
from banger.storage.workdisk import prepare_work_disk

SPEC = VMSpec(vcpu_count=1, memory_mib=256, system_overlay_bytes=8 * GIB, work_disk_bytes=64 * MIB)


@pytest.fixture
def files(tmp_path: Path) -> VMLayout:
    root = tmp_path / "vm"
    root.mkdir()
    return VMLayout(root)


def output_of(*argv: str | Path) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True, env={"PATH": SEARCH_PATH, "LC_ALL": "C.UTF-8"}).stdout


async def test_overlay_is_a_clean_sparse_private_file_system(files: VMLayout, tmp_path: Path) -> None:
    driver: RootDisk = OverlayDisk()
    base = tmp_path / "rootfs.ext4"
    disks = await driver.prepare(files, base, SPEC, -1)
    assert disks == (Disk(serial="base", path=base, read_only=True), Disk(serial="overlay", path=files.overlay_disk, read_only=False))
    assert driver.root_mode == 1
    info = files.overlay_disk.stat()
    assert info.st_size == 8 * GIB
    assert stat.S_IMODE(info.st_mode) == 0o600
    assert allocated_bytes(files.overlay_disk) < 1 * MIB
    output_of("e2fsck", "-fn", files.overlay_disk)
    assert os.listdir(files.root) == ["system.overlay"]


async def test_guest_kernel_finds_nothing_to_initialise(files: VMLayout) -> None:
    await OverlayDisk().prepare(files, Path("base"), SPEC, -1)
    dump = output_of("dumpe2fs", files.overlay_disk)
    groups = re.findall(r"^Group \d+: .*$", dump, re.MULTILINE)
    assert len(groups) == 64
    assert all("ITABLE_ZEROED" in line for line in groups)
    assert "has_journal" in dump


async def test_work_disk_root_belongs_to_root(files: VMLayout) -> None:
    disk = await prepare_work_disk(files, SPEC, -1)
    assert disk == Disk(serial="work", path=files.work_disk, read_only=False)
    assert files.work_disk.stat().st_size == 64 * MIB
    assert re.search(r"User:\s+0\s+Group:\s+0\b", output_of("debugfs", "-R", "stat <2>", files.work_disk))
    output_of("e2fsck", "-fn", files.work_disk)


async def test_disks_of_one_machine_can_be_told_apart(files: VMLayout) -> None:
    await OverlayDisk().prepare(files, Path("base"), SPEC, -1)
    await prepare_work_disk(files, SPEC, -1)
    uuids = {re.search(r"Filesystem UUID:\s+(\S+)", output_of("dumpe2fs", "-h", path))[1] for path in (files.overlay_disk, files.work_disk)}  # type: ignore[index]
    assert len(uuids) == 2


async def test_an_existing_disk_is_kept(files: VMLayout) -> None:
    files.overlay_disk.write_bytes(b"precious")
    files.work_disk.write_bytes(b"precious")
    await OverlayDisk().prepare(files, Path("base"), SPEC, -1)
    await prepare_work_disk(files, SPEC, -1)
    assert files.overlay_disk.read_bytes() == files.work_disk.read_bytes() == b"precious"


async def test_what_a_killed_daemon_left_is_replaced(files: VMLayout) -> None:
    staging_name(files.work_disk).write_bytes(b"half")
    await prepare_work_disk(files, SPEC, -1)
    assert os.listdir(files.root) == ["root.ext4"]
    output_of("e2fsck", "-fn", files.work_disk)


async def test_release_removes_finished_and_half_made_disks_and_nothing_twice(files: VMLayout) -> None:
    files.overlay_disk.touch()
    staging_name(files.overlay_disk).touch()
    for _ in range(2):
        await OverlayDisk().release(files)
        assert os.listdir(files.root) == []


async def test_a_size_that_no_file_can_have(files: VMLayout) -> None:
    with pytest.raises(BadRequest, match="larger than a file may be"):
        await make_disk(files.work_disk, 2**62, label="x", uid=-1)
    assert os.listdir(files.root) == []


async def test_a_failing_mke2fs_leaves_nothing(files: VMLayout) -> None:
    with pytest.raises(Exception, match="mke2fs"):
        await make_disk(files.work_disk, 4096, label="x", uid=-1)
    assert os.listdir(files.root) == []


@pytest.mark.root
async def test_disks_belong_to_the_uid_of_the_vmm(files: VMLayout) -> None:
    await OverlayDisk().prepare(files, Path("base"), SPEC, 54321)
    await prepare_work_disk(files, SPEC, 54321)
    for path in (files.overlay_disk, files.work_disk):
        info = path.stat()
        assert (info.st_uid, info.st_gid, stat.S_IMODE(info.st_mode)) == (54321, 54321, 0o600)


@pytest.mark.root
async def test_a_full_file_system_is_named_and_left_clean(files: VMLayout) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", files.root], check=True)
    try:
        with pytest.raises(NoSpace, match=f"making root.ext4 in {files.root}"):
            await prepare_work_disk(files, SPEC, -1)
        assert os.listdir(files.root) == []
    finally:
        subprocess.run(["umount", files.root], check=True)
