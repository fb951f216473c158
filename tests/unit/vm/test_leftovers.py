"""``banger gc`` against fake drivers: everything that is ours and needless is found, nothing else is touched."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from banger.host import process
from banger.host.paths import private_directory
from banger.host.run import spawn
from banger.host.sockets import listen
from banger.model.errors import BangerError
from banger.model.names import new_id
from banger.model.progress import silent
from banger.model.records import ProcessIdentity
from banger.vm import leftovers
from banger.vm.leftovers import Leftover
from tests.unit.vm.fakes import FakeNetwork, FakeWorld
from tests.unit.vm.test_service import SMALL, Instance

OLD = time.time() - 7200


@pytest.fixture
async def instance(tmp_path: Path) -> AsyncIterator[Instance]:
    instance = Instance(tmp_path)
    yield instance
    await instance.machines.close()
    await instance.world.close()
    instance.database.close()


async def look(instance: Instance) -> dict[str, Leftover]:
    found = await instance.machines.collect_garbage(dry_run=True, report=silent)
    assert not any(one.removed or one.error for one in found)
    return {one.what: one for one in found}


async def clear(instance: Instance) -> list[Leftover]:
    collected = await instance.machines.collect_garbage(dry_run=False, report=silent)
    assert [one for one in collected if not one.removed] == []
    assert await look(instance) == {}
    return list(collected)


async def test_a_healthy_instance_has_none(instance: Instance) -> None:
    await instance.create()
    await instance.create(replace(SMALL, name="idle"))
    await instance.machines.stop("idle", timeout=5, report=silent)
    await instance.create(replace(SMALL, name="new", start=False))
    assert await clear(instance) == []
    assert instance.machines.status("box").alive


async def test_what_is_not_ours_is_not_touched(instance: Instance, tmp_path: Path) -> None:
    await instance.create()
    vms, foreign = instance.layout.vms, new_id()
    target = tmp_path / "somewhere"
    target.mkdir()
    (target / "precious").touch()
    (vms / foreign).symlink_to(target)
    (vms / "notes").mkdir()
    (vms / f"{new_id()}.old").mkdir()
    (vms / new_id()).touch()
    other = FakeWorld(tmp_path / "other")
    child = spawn(["sleep", "1000", other.marker(new_id())], output=tmp_path / "log")
    young = instance.layout.state / "banger.db.x.staging"
    young.touch()
    try:
        before = sorted(vms.iterdir())
        assert await clear(instance) == []
        assert sorted(vms.iterdir()) == before
        assert process.is_alive(child)
        assert young.exists()
        assert (target / "precious").exists()
    finally:
        await process.end(child)


async def test_a_machine_without_a_row(instance: Instance) -> None:
    record = await instance.create()
    (pid,) = instance.world.processes()
    await instance.machines.close()
    instance.machines._services.vms.delete(record.id)
    root = str(instance.layout.vm(record.id).root)
    found = await look(instance)
    assert found == {
        f"process {pid}": Leftover(kind="machine", what=f"process {pid}", vm_id=record.id),
        root: Leftover(kind="directory", what=root, vm_id=record.id),
    }
    assert instance.world.processes() == [pid]
    assert [one.kind for one in await clear(instance)] == ["machine", "directory"]
    instance.world.attached.clear()
    assert instance.leftovers() == []


async def test_files_of_a_stopped_machine(instance: Instance) -> None:
    record = await instance.create()
    await instance.machines.stop("box", timeout=5, report=silent)
    files = instance.layout.vm(record.id)
    with listen(files.agent_socket):
        pass
    staged = files.root / "root.ext4.staging"
    staged.touch()
    assert {what: one.kind for what, one in (await look(instance)).items()} == {str(files.agent_socket): "socket", str(staged): "staging"}
    await clear(instance)
    assert sorted(os.listdir(files.root)) == ["root.ext4", "system.overlay", "vmm.log"]
    assert (await instance.machines.start("box", wait_booted=False, report=silent)).id == record.id


async def test_files_of_a_running_machine_are_its_own(instance: Instance) -> None:
    record = await instance.create()
    files = instance.layout.vm(record.id)
    with listen(files.control_socket) as sock:
        (files.root / "handles.json.x.staging").touch()
        assert await clear(instance) == []
        assert sock.getsockname()


async def test_half_made_files_that_nobody_writes_any_more(instance: Instance) -> None:
    abandoned = [instance.layout.state / "a.staging", instance.layout.initramfs_cache / "b.staging"]
    for path in abandoned:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.utime(path, (OLD, OLD))
    assert {one.what for one in await clear(instance)} == set(map(str, abandoned))


class HelpedNetwork(FakeNetwork):
    """A network whose machines have a helper."""

    helpers: Mapping[str, tuple[ProcessIdentity, ...]]

    async def list_helpers(self, vms: Path) -> Mapping[str, tuple[ProcessIdentity, ...]]:
        return {vm_id: alive for vm_id, some in self.helpers.items() if (alive := tuple(filter(process.is_alive, some)))}


async def test_network_helpers(instance: Instance, tmp_path: Path) -> None:
    used, idle = await instance.create(), await instance.create(replace(SMALL, name="idle", start=False))
    helpers = {vm_id: (spawn(["sleep", "1000"], output=tmp_path / "log"),) for vm_id in (used.id, idle.id, new_id())}
    network = HelpedNetwork(instance.world)
    network.helpers = helpers
    object.__setattr__(instance.machines._services, "network", network)
    try:
        assert {one.vm_id for one in (await look(instance)).values()} == set(helpers) - {used.id}
        assert {one.kind for one in await clear(instance)} == {"network"}
        assert [process.is_alive(one) for (one,) in helpers.values()] == [True, False, False]
    finally:
        for (one,) in helpers.values():
            await process.end(one)


async def test_one_that_resists_is_told_and_keeps_nobody(instance: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(3):
        (instance.layout.vms / new_id()).mkdir(parents=True)
    stubborn = sorted(instance.layout.vms.iterdir())[1]

    def remove(path: Path) -> None:
        if path == stubborn:
            raise OSError(39, "Directory not empty")
        path.rmdir()

    monkeypatch.setattr("banger.vm.leftovers.remove_tree", remove)
    collected = await instance.machines.collect_garbage(dry_run=False, report=silent)
    assert [(one.removed, one.error) for one in collected] == [(True, ""), (False, "[Errno 39] Directory not empty"), (True, "")]
    assert list(instance.layout.vms.iterdir()) == [stubborn]


async def test_what_is_used_by_the_time_of_removal_stays(instance: Instance) -> None:
    record = await instance.create(replace(SMALL, start=False))
    files = instance.layout.vm(record.id)
    for directory in (instance.layout.vms, files.root):
        private_directory(directory)
    staged = files.root / "x.staging"
    staged.touch()
    (found,) = await leftovers._find(instance.machines._services)
    await instance.machines.start("box", wait_booted=False, report=silent)
    with pytest.raises(BangerError, match="runs by now"):
        await found.remove()
    assert staged.exists()


async def test_a_new_daemon_says_in_its_log_what_is_left(instance: Instance, caplog: pytest.LogCaptureFixture) -> None:
    directory = instance.layout.vms / new_id()
    directory.mkdir(parents=True)
    await instance.restart_daemon()
    assert [vars(record)["what"] for record in caplog.records if "leftover" in record.message] == [str(directory)]
    assert directory.exists()


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[[Path], Path]]:
    """Mounts a directory that holds something precious; a bind mount, which has the device number of what is around it."""
    places: list[Path] = []
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").touch()

    def mount(place: Path) -> Path:
        place.mkdir()
        subprocess.run(["mount", "--bind", outside, place], check=True)
        places.append(place)
        return outside / "precious"

    yield mount
    for place in places:
        subprocess.run(["umount", "-q", place], check=False)


@pytest.mark.root
async def test_what_is_mounted_in_a_leftover_is_unmounted_and_not_deleted(instance: Instance, mounted: Callable[[Path], Path]) -> None:
    directory = private_directory(private_directory(instance.layout.vms) / new_id())
    precious = mounted(directory / "my mount")
    assert {one.kind: one.what for one in (await look(instance)).values()} == {"mount": f"{directory}/my mount", "directory": str(directory)}
    assert [one.kind for one in await clear(instance)] == ["mount", "directory"]
    assert precious.exists() and not directory.exists()


@pytest.mark.root
async def test_a_mount_that_stays_keeps_its_leftover(instance: Instance, mounted: Callable[[Path], Path]) -> None:
    directory = private_directory(private_directory(instance.layout.vms) / new_id())
    precious = mounted(directory / "busy")
    with (directory / "busy" / "precious").open():
        mount, around = await instance.machines.collect_garbage(dry_run=False, report=silent)
    assert "busy" in mount.error and f"{directory}/busy" in around.error
    assert precious.exists() and directory.exists()


@pytest.mark.root
async def test_a_deletion_does_not_reach_into_a_mount(instance: Instance, mounted: Callable[[Path], Path]) -> None:
    record = await instance.create()
    precious = mounted(instance.layout.vm(record.id).root / "mine")
    await instance.machines.delete("box", report=silent)
    assert precious.exists()
    assert instance.leftovers() == []
