"""A source that changes, names that are taken, and what is done with images that are here; over the real store."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from banger.host.paths import Layout
from banger.image.catalog import DEFAULT_KERNEL
from banger.image.housekeeping import Housekeeping
from banger.image.kernels import KernelService
from banger.image.oci.reference import parse
from banger.image.service import UP_TO_DATE, ImageService
from banger.image.sources.container import ContainerSource
from banger.image.sources.files import Ext4Source
from banger.image.sources.spooled import SpooledSource
from banger.model.errors import AlreadyExists, BadRequest, BangerError, NotFound
from banger.model.names import new_id
from banger.model.progress import silent
from banger.model.records import ImageConfig, ImageRecord, VMRecord, VMSpec, VMState
from banger.store import Database, ImageTable, KernelTable, VMTable
from tests.unit.image.made_ext4 import SIZE, make_ext4
from tests.unit.image.played import FakeKernels, PlayedSource


@pytest.fixture
def table(database: Database) -> ImageTable:
    return ImageTable(database)


@pytest.fixture
def images(layout: Layout, table: ImageTable) -> ImageService:
    return ImageService(layout, table, cast(KernelService, FakeKernels(layout)))


@pytest.fixture
def keeping(table: ImageTable, images: ImageService) -> Housekeeping:
    return Housekeeping(table, images)


def use(database: Database, image: ImageRecord, name: str = "box") -> VMRecord:
    spec = VMSpec(vcpu_count=1, memory_mib=256, system_overlay_bytes=1, work_disk_bytes=1)
    vm = VMRecord(
        id=new_id(),
        name=name,
        image_id=image.id,
        image_name=image.name,
        state=VMState.STOPPED,
        created_at=1.0,
        updated_at=1.0,
        touched_at=1.0,
        spec=spec,
    )
    VMTable(database).insert(vm)
    return vm


class Stages:
    def __init__(self) -> None:
        self.seen: list[str] = []
        self.warnings: list[str] = []

    def __call__(self, stage: str, message: str = "", *, progress: float | None = None, warning: bool = False) -> None:
        self.seen.append(stage)
        if warning:
            self.warnings.append(message)


async def test_what_has_not_changed_is_left_alone(images: ImageService) -> None:
    source, stages = PlayedSource(config=ImageConfig(user="app")), Stages()
    image = await images.obtain(source, silent)
    assert (image.name, image.reference, image.config.user, image.managed) == ("dev", source.reference, "app", True)
    assert json.loads(Path(image.path, "manifest.json").read_text())["more"] == 1
    assert await images.obtain(source, stages) == image
    assert (source.made, stages.seen) == (1, [UP_TO_DATE])
    assert (await images.obtain(source, silent, again=True)).id != image.id


async def test_found_by_name_reference_and_id(images: ImageService) -> None:
    image = await images.obtain(PlayedSource(reference="docker://docker.io/library/alpine:3"), silent, name="mine")
    for word in ("mine", image.id, "alpine:3", "docker.io/library/alpine:3", "docker://alpine:3"):
        assert await images.show(word) == image
    again = await images.obtain(PlayedSource(reference="docker://docker.io/library/alpine:3"), silent)
    assert again == image, "it already has a name"
    assert images.config_of("0" * 32) == ImageConfig()


async def test_an_unused_one_is_replaced(images: ImageService, layout: Layout) -> None:
    source = PlayedSource()
    first = await images.obtain(source, silent)
    source.content = b"two"
    second = await images.obtain(source, silent)
    assert images.list() == (second,)
    assert (second.name, second.digest != first.digest) == ("dev", True)
    assert not Path(first.path).exists()


async def test_one_in_use_is_kept_under_another_name(images: ImageService, database: Database, keeping: Housekeeping) -> None:
    source = PlayedSource(config=ImageConfig(user="old"))
    first = await images.obtain(source, silent)
    vm = use(database, first)
    source.content, source.config = b"two", ImageConfig(user="new")
    second = await images.obtain(source, silent)
    kept = await images.show(first.id)
    shown = VMTable(database).get(vm.id)
    assert shown is not None and shown.image_name == kept.name
    assert (kept.superseded, kept.name) == (True, f"dev.{first.id[:12]}")
    assert await images.show(source.reference) == second
    assert images.config_of(vm.image_id).user == "old"
    bootable = await images.ensure(first.id, silent)
    assert bootable.rootfs.read_bytes() == b"one"
    with pytest.raises(BadRequest, match="in use by box") as caught:
        await images.delete(kept.name)
    assert caught.value.hint == "delete them first: banger vm delete box"
    assert await keeping.collect(1 << 40, silent, dry_run=False) == ()
    VMTable(database).delete(vm.id)
    assert [one.image.id for one in await keeping.collect(1 << 40, silent, dry_run=False)] == [first.id]
    assert images.list() == (second,)


async def test_a_name_that_something_else_has(images: ImageService) -> None:
    await images.obtain(PlayedSource(), silent)
    other = PlayedSource(reference="docker://other/dev:1")
    with pytest.raises(AlreadyExists, match="made of docker://ghcr"):
        await images.obtain(other, silent, name="dev")
    image = await images.obtain(other, silent)
    assert image.name.startswith("dev-") and image.reference == other.reference
    with pytest.raises(AlreadyExists):
        images.check_free("dev")


async def test_what_came_through_a_pipe_points_nowhere(images: ImageService) -> None:
    image = await images.obtain(SpooledSource(PlayedSource(), "/spool/x/image"), silent, name="piped")
    assert (image.reference, image.revision, image.source) == ("", "", "stdin")
    assert [images.unused_name(name) for name in ("piped", "stdin")] == ["piped-2", "stdin"]


async def test_nothing_speaks_of_where_stdin_was_kept(images: ImageService, tmp_path: Path) -> None:
    spool, said = tmp_path / "image", []
    spool.write_bytes(b"\x1f\x8b\x08 no archive")
    source = ContainerSource(where=parse(f"docker-archive:{spool}"), cache=images.cache, kernel="k")

    def report(stage: str, message: str = "", *, progress: float | None = None, warning: bool = False) -> None:
        said.append(message)

    with pytest.raises(BangerError, match=r"^stdin is damaged") as caught:
        await images.obtain(SpooledSource(source, str(spool)), report, name="piped")
    assert not [text for text in (*said, caught.value.message, caught.value.hint) if str(tmp_path) in text]
    assert "stdin" in said


async def test_an_unknown_kernel_is_refused_before_anything_is_made(layout: Layout, table: ImageTable, database: Database) -> None:
    images, source = ImageService(layout, table, KernelService(layout, KernelTable(database))), PlayedSource(kernel="nope")
    with pytest.raises(NotFound, match="no kernel 'nope'") as caught:
        await images.obtain(source, silent)
    assert (source.made, caught.value.hint) == (0, "see: banger kernel list --available")


async def test_pulls_of_one_name_are_one_and_others_overlap(images: ImageService) -> None:
    gate = asyncio.Event()
    one, two = PlayedSource(gate=gate), PlayedSource(name="b", reference="docker://b:1", gate=gate)
    tasks = [asyncio.create_task(images.obtain(source, silent)) for source in (one, one, two)]
    while not (one.made and two.made):
        await asyncio.sleep(0)
    assert images.busy
    tasks[0].cancel()
    gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert (one.made, two.made, len(images.list())) == (1, 1, 2)


@pytest.mark.parametrize(("asked", "warned"), [("nobody-has-it", True), ("debian-cloud", False), ("", False)])
async def test_a_kernel_that_a_bundle_asks_for(images: ImageService, asked: str, warned: bool) -> None:
    stages = Stages()
    image = await images.obtain(PlayedSource(kernel=DEFAULT_KERNEL, asked_kernel=asked), stages)
    assert (image.kernel_name, bool(stages.warnings)) == (DEFAULT_KERNEL, warned)


async def test_another_kernel_for_an_image_that_has_not_changed(images: ImageService) -> None:
    source = PlayedSource()
    image = await images.obtain(source, silent)
    source.kernel = "k2"
    assert await images.obtain(source, silent) == replace(image, kernel_name="k2") == await images.show("dev")
    assert source.made == 1


async def test_least_recently_used_goes_first(images: ImageService, table: ImageTable, keeping: Housekeeping, database: Database) -> None:
    sources = [PlayedSource(name=name, reference=f"docker://{name}:1", content=name.encode() * 65536) for name in "abc"]
    made = [await images.obtain(source, silent) for source in sources]
    for image, used in zip(made, (3e9, 1e9 + 5e9, 2e9), strict=True):
        table.touch(image.id, used)
    use(database, made[0])
    planned = await keeping.collect(140_000, silent, dry_run=True)
    assert [(one.image.name, one.removed) for one in planned] == [("c", False)]
    assert len(images.list()) == 3
    removed = await keeping.collect(0, silent, dry_run=False)
    assert [(one.image.name, one.removed) for one in removed] == [("c", True), ("b", True)]
    assert [image.name for image in images.list()] == ["a"]


async def test_registered_then_promoted(images: ImageService, keeping: Housekeeping, tmp_path: Path) -> None:
    mine = make_ext4(tmp_path / "mine.ext4")
    image = await images.obtain(Ext4Source(path=mine, kernel="k", link=True), silent, name="mine")
    assert (image.managed, Path(image.path, "rootfs.ext4").resolve()) == (False, mine)
    assert (await images.ensure(str(mine), silent)).image == image
    promoted = await keeping.promote("mine", silent)
    assert promoted == replace(image, managed=True, revision=promoted.revision) == await images.show("mine")
    with pytest.raises(AlreadyExists, match="own already"):
        await keeping.promote("mine", silent)
    mine.unlink()
    assert (await images.ensure("mine", silent)).rootfs.stat().st_size == SIZE
    await images.delete("mine")


async def test_deleting_a_registered_one_leaves_the_file(images: ImageService, tmp_path: Path) -> None:
    mine = make_ext4(tmp_path / "mine.ext4")
    await images.obtain(Ext4Source(path=mine, kernel="k", link=True), silent, name="mine")
    await images.delete("mine")
    assert mine.exists()


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        (0x38, b"\0\0", "not an ext4"),
        (0x60, b"\xff", "not unmounted cleanly"),
        (4, b"\xff\xff\0\0", "cut short"),
        (4, bytes(4), "has no blocks"),
        (0x18, b"\x09\0\0\0", "larger than a page"),
        (0, b"\xff\xff\xff\x00", "damaged file system"),
        (1024, b"\xff" * 2048, "damaged file system"),
    ],
)
@pytest.mark.parametrize("link", [False, True], ids=["import", "register"])
async def test_files_that_are_no_sound_ext4(images: ImageService, tmp_path: Path, at: int, value: bytes, message: str, link: bool) -> None:
    mine = make_ext4(tmp_path / "mine.ext4")
    with mine.open("r+b") as file:
        file.seek(1024 + at)
        file.write(value)
    with pytest.raises(BadRequest, match=message):
        await images.obtain(Ext4Source(path=mine, kernel="k", link=link), silent, name="mine")
    assert images.list() == ()


async def test_export_writes_a_new_file_whole_or_none(images: ImageService, keeping: Housekeeping, tmp_path: Path) -> None:
    image = await images.obtain(PlayedSource(), silent)
    out = tmp_path / "out.bundle"
    out.write_bytes(b"mine")
    with pytest.raises(AlreadyExists, match=f"{out} already exists"):
        await keeping.export("dev", out, silent)
    assert out.read_bytes() == b"mine"
    out.unlink()
    Path(image.path, "rootfs.ext4").write_bytes(b"tampered")
    with pytest.raises(BadRequest, match="has changed"):
        await keeping.export("dev", out, silent)
    assert list(tmp_path.glob("out*")) == []
    Path(image.path, "rootfs.ext4").write_bytes(b"one")
    await keeping.export("dev", out, silent)
    assert out.read_bytes()[:4] == b"\x28\xb5\x2f\xfd"
    for bad in (tmp_path, tmp_path / "no" / "where"):
        with pytest.raises(BangerError, match="cannot be written"):
            await keeping.export("dev", bad, silent)
