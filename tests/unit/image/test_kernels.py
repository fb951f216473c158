"""The kernel service over the real store: imports, bundles, replacing, refusing to delete what is used."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from banger.host.files import sha256_of
from banger.host.paths import Layout
from banger.image.kernel_files import KernelFiles, find
from banger.image.kernels import KernelService
from banger.model.errors import AlreadyExists, BadRequest, BangerError, NotFound
from banger.model.progress import silent
from banger.model.records import ImageRecord, VMRecord, VMSpec, VMState
from banger.store import Database, ImageTable, KernelTable, VMTable

from .made_kernels import VERSION, kernel_directory


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout.from_environment({"BANGER_HOME": str(tmp_path / "home")})
    layout.kernels.mkdir(parents=True)
    return layout


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database.open(tmp_path / "banger.db")
    yield database
    database.close()


@pytest.fixture
def service(layout: Layout, database: Database) -> KernelService:
    return KernelService(layout, KernelTable(database))


@pytest.fixture
def files(tmp_path: Path) -> KernelFiles:
    return find(kernel_directory(tmp_path / "k"))


def kernels_on_disk(layout: Layout) -> list[str]:
    return sorted(path.name for path in layout.kernels.iterdir() if not path.name.startswith("."))


async def test_import(service: KernelService, layout: Layout, files: KernelFiles) -> None:
    record = await service.import_files("mine", files, silent, force=False)
    assert (record.version, record.virtio, record.console, record.format) == (VERSION, "modules", "ttyS0", "elf")
    assert record.digest == sha256_of(files.vmlinux)
    assert service.show("mine") == record
    assert json.loads(Path(record.path, "manifest.json").read_text())["version"] == VERSION
    assert (await service.initramfs_of(record)).stat().st_size > 1000


async def test_a_taken_name_is_refused_or_replaced(service: KernelService, layout: Layout, files: KernelFiles) -> None:
    first = await service.import_files("mine", files, silent, force=False)
    with pytest.raises(AlreadyExists, match="mine"):
        await service.import_files("mine", files, silent, force=False)
    second = await service.import_files("mine", files, silent, force=True)
    assert first.id != second.id
    assert kernels_on_disk(layout) == [second.id]


async def test_two_imports_of_one_name_at_once(service: KernelService, layout: Layout, files: KernelFiles) -> None:
    outcomes = await asyncio.gather(*(service.import_files("mine", files, silent, force=False) for _ in range(2)), return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["AlreadyExists", "KernelRecord"]
    assert len(kernels_on_disk(layout)) == 1


async def test_an_unusable_kernel_leaves_nothing(service: KernelService, layout: Layout, files: KernelFiles) -> None:
    assert files.config is not None
    files.config.write_text(files.config.read_text().replace("CONFIG_PVH=y", "# CONFIG_PVH is not set"))
    with pytest.raises(BadRequest, match="CONFIG_PVH=y is missing"):
        await service.import_files("mine", files, silent, force=False)
    assert service.list() == ()
    assert kernels_on_disk(layout) == []


async def test_a_bundle_goes_round(service: KernelService, layout: Layout, files: KernelFiles, tmp_path: Path) -> None:
    record = await service.import_files("mine", files, silent, force=False)
    bundle = tmp_path / "mine.tar.zst"
    await service.export("mine", bundle, silent)
    with pytest.raises(AlreadyExists):
        await service.export("mine", bundle, silent)
    again = await service.pull_bundle("again", str(bundle), sha256_of(bundle), silent, force=False)
    assert (again.digest, again.version) == (record.digest, record.version)
    assert not any(path.name == "bundle" for path in layout.kernels.rglob("*"))


async def test_a_bundle_with_another_digest_is_not_unpacked(service: KernelService, layout: Layout, files: KernelFiles, tmp_path: Path) -> None:
    await service.import_files("mine", files, silent, force=False)
    bundle = tmp_path / "mine.tar.zst"
    await service.export("mine", bundle, silent)
    with pytest.raises(BadRequest, match="has digest"):
        await service.pull_bundle("again", str(bundle), "sha256:" + "0" * 64, silent, force=False)
    assert len(kernels_on_disk(layout)) == 1


@pytest.mark.parametrize(("location", "digest"), [("http://example.org/k.tar.zst", "sha256:" + "0" * 64), ("https://example.org/k.tar.zst", "")])
async def test_urls_that_bundles_are_not_taken_from(service: KernelService, location: str, digest: str) -> None:
    with pytest.raises(BadRequest):
        await service.pull_bundle("k", location, digest, silent, force=False)


async def test_missing_things(service: KernelService, tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="is not a file"):
        await service.pull_bundle("k", str(tmp_path / "none"), "", silent, force=False)
    with pytest.raises(NotFound) as unknown:
        await service.pull("debian-clod", silent, force=False)
    assert "debian-cloud" in unknown.value.hint
    with pytest.raises(BangerError, match="bad kernel name"):
        await service.import_files("../x", KernelFiles(vmlinux=tmp_path), silent, force=False)


async def test_what_is_used_is_not_deleted_and_its_users_are_named(service: KernelService, database: Database, layout: Layout, files: KernelFiles) -> None:
    await service.import_files("mine", files, silent, force=False)
    image = ImageRecord(id="i", name="box", source="s", path="/p", digest="d", size_bytes=1, kernel_name="mine", created_at=0.0)
    ImageTable(database).insert(image)
    with pytest.raises(BadRequest, match="used by the image box"):
        await service.delete("mine")
    spec = VMSpec(vcpu_count=1, memory_mib=256, system_overlay_bytes=1, work_disk_bytes=1)
    for name in ("one", "two"):
        vm = VMRecord(id=name, name=name, image_id="i", image_name="box", state=VMState.STOPPED, created_at=0.0, updated_at=0.0, touched_at=0.0, spec=spec)
        VMTable(database).insert(vm)
    with pytest.raises(BadRequest, match="used by the machines one, two"):
        await service.delete("mine")
    VMTable(database).delete("one")
    VMTable(database).delete("two")
    ImageTable(database).delete("box")
    assert (await service.delete("mine")).name == "mine"
    assert kernels_on_disk(layout) == []


async def test_an_instance_that_was_copied_uses_its_own_files(
    service: KernelService, database: Database, layout: Layout, files: KernelFiles, tmp_path: Path
) -> None:
    record = await service.import_files("mine", files, silent, force=False)
    layout.state.rename(tmp_path / "moved")
    (tmp_path / "home").rmdir()
    elsewhere = Layout.from_environment({"BANGER_HOME": str(tmp_path / "new")})
    elsewhere.state.parent.mkdir(parents=True)
    (tmp_path / "moved").rename(elsewhere.state)
    moved = KernelService(elsewhere, KernelTable(database))
    await moved.settle()
    assert moved.show("mine").path == str(elsewhere.kernels / record.id)
    assert (await moved.ensure("mine", silent)).digest == record.digest


async def test_a_kernel_without_its_files_says_what_to_do(service: KernelService, files: KernelFiles) -> None:
    record = await service.import_files("mine", files, silent, force=False)
    Path(record.path, "vmlinux").unlink()
    with pytest.raises(BangerError, match="is damaged") as damaged:
        await service.ensure("mine", silent)
    assert "banger kernel import mine --force" in damaged.value.hint


async def test_at_start_nothing_finished_is_removed(service: KernelService, layout: Layout, files: KernelFiles) -> None:
    record = await service.import_files("mine", files, silent, force=False)
    lost = layout.kernels / ("0" * 32)
    lost.mkdir()
    await service.settle()
    assert kernels_on_disk(layout) == sorted([record.id, lost.name])
