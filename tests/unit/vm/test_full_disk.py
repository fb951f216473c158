"""A full disk below the whole instance: clear errors, the old state stays readable, nothing leaks, and all is well once there is room."""

from __future__ import annotations

import io
import os
import subprocess
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from banger.model.errors import BangerError, NoSpace, StoreError
from banger.model.progress import silent
from banger.model.records import VMState
from banger.store import Journal
from banger.vm.change import Change
from tests.unit.vm.test_service import SMALL, Instance

pytestmark = pytest.mark.root
MIB = 1 << 20


@pytest.fixture
async def instance(tmp_path: Path) -> AsyncIterator[Instance]:
    """An instance on a file system of 64 MiB."""
    image, place = tmp_path / "small.img", tmp_path / "small"
    place.mkdir()
    image.touch()
    os.truncate(image, 64 * MIB)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, place], check=True)
    try:
        instance = Instance(place)
        yield instance
        await instance.machines.close()
        await instance.world.close()
        instance.database.close()
    finally:
        subprocess.run(["umount", place], check=True)


def fill(instance: Instance) -> Path:
    ballast = instance.layout.state.parent / "ballast"
    with ballast.open("wb", buffering=0) as file:
        fill_file(file)
    return ballast


def fill_file(file: io.FileIO) -> None:
    for size in (MIB, 4096, 512):
        try:
            while file.write(bytes(size)) == size:
                pass
        except OSError:
            continue


async def test_nothing_is_lost_and_nothing_leaks(instance: Instance) -> None:
    await instance.create()
    await instance.create(replace(SMALL, name="off"))
    await instance.machines.stop("off", timeout=5, report=silent)
    before = instance.machines.list()
    ballast = fill(instance)
    with pytest.raises((BangerError, OSError, ExceptionGroup)):
        for number in range(2000):
            await instance.create(replace(SMALL, name=f"more{number}", start=number % 2 == 0))
    with pytest.raises((NoSpace, StoreError)):
        await instance.machines.change("off", Change(work_disk_bytes=100 << 30), report=silent)
    ids = {record.id for record in before}
    assert [record.spec for record in instance.machines.list() if record.id in ids] == [record.spec for record in before]
    assert instance.machines.status("box").alive
    ballast.unlink()
    await instance.restart_daemon()
    assert instance.machines.status("box").alive
    assert instance.machines.find("off").spec == next(record for record in before if record.name == "off").spec
    assert (await instance.machines.start("off", wait_booted=False, report=silent)).state is VMState.RUNNING
    for record in instance.machines.list():
        await instance.machines.delete(record.id, report=silent)
    assert instance.leftovers() == []
    assert Journal(instance.database).entries() == ()
    assert await instance.machines.collect_garbage(dry_run=True, report=silent) == ()


async def test_a_machine_can_be_deleted_to_make_room(instance: Instance) -> None:
    await instance.create()
    for _ in range(30):  # as after some use
        await instance.machines.restart("box", wait_booted=False, report=silent)
    fill(instance)
    await instance.machines.delete("box", report=silent)
    assert instance.leftovers() == []


async def test_machines_can_be_deleted_again_and_again_on_a_full_disk(instance: Instance) -> None:
    """Whoever fills the disk takes what each deletion frees, and the reserve too."""
    names = [f"box{number}" for number in range(4)]
    for name in names:
        await instance.create(replace(SMALL, name=name))
        disk = instance.layout.vm(instance.machines.find(name).id).work_disk
        disk.write_bytes(bytes(2 * MIB))
    ballast = instance.layout.state / "banger.db.ballast"
    for name in names:
        ballast.unlink(missing_ok=True)
        instance.database.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # or there is room in the log itself
        with (instance.layout.state.parent / f"rest-{name}").open("wb", buffering=0) as file:
            fill_file(file)
        instance.machines.note_use(instance.machines.find(name).id)  # which exec does; refused only in the log
        await instance.machines.delete(name, report=silent)
    assert instance.leftovers() == []
