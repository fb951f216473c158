"""Images and kernels over the real store; building and fetching are played, their results are small files."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from banger.host.paths import Layout
from banger.image import service
from banger.image.catalog import Catalog, Distribution, KernelRecipe, Recipe
from banger.image.kernel import Release
from banger.image.recipe import Tree
from banger.image.service import ImageService
from banger.image.staging import staging_path
from banger.model.errors import AlreadyExists, BadRequest, BangerError, CommandFailed, NotFound
from banger.model.names import new_id
from banger.model.progress import Report, silent
from banger.model.records import ImageRecord, VMRecord, VMSpec, VMState
from banger.store import Database, ImageTable, KernelTable, VMTable

MISSING = "debian-bookwrom"


def a_recipe(name: str) -> Recipe:
    return Recipe(
        name=name, description="an image", kernel="k", distribution="d", suite="s", packages=(), scratch_bytes=1, remove=(), links={}, files={}
    )  # fmt: skip


CATALOG = Catalog(
    recipes={name: a_recipe(name) for name in ("debian-bookworm", "other")},
    kernels={"k": KernelRecipe(name="k", description="a kernel", distribution="d", suite="s", package="p", scratch_bytes=1)},
    distributions={"d": Distribution(origin="D", keyring="/k", keyring_package="k", components=("main",), mirrors={})},
)


class Played:
    """Builds and fetches that can be held up, fail, and count."""

    def __init__(self) -> None:
        self.builds: list[str] = []
        self.fetches = 0
        self.initramfs_builds = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.begun = asyncio.Event()
        self.failure: Exception | None = None
        self.fetch_failure: Exception | None = None

    async def build(self, recipe: Recipe, distribution: Distribution, staging: Path, report: Report) -> Tree:
        self.builds.append(recipe.name)
        (staging / "rootfs.ext4").write_bytes(b"half")
        report("build_image", "building", progress=0.5)
        self.begun.set()
        await self.gate.wait()
        if self.failure:
            raise self.failure
        (staging / "rootfs.ext4").write_bytes(b"whole")
        return Tree(blocks=1, inodes=1, packages={"git": "1"})

    async def fetch(self, recipe: KernelRecipe, distribution: Distribution, staging: Path, report: Report) -> Release:
        self.fetches += 1
        (staging / "vmlinux").write_bytes(b"kernel")
        await asyncio.sleep(0)
        if self.fetch_failure:
            raise self.fetch_failure
        return Release(package="linux-image-6.1", version="6.1")

    def initramfs(self, kernel_dir: Path, program: Path, cache: Path) -> Path:
        self.initramfs_builds += 1
        cache.mkdir(parents=True, exist_ok=True)
        path = cache / f"{self.initramfs_builds}.cpio"
        path.touch()
        return path


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Played:
    played = Played()
    program = tmp_path / "banger-guest"
    program.write_bytes(b"program")
    monkeypatch.setattr("banger.image.recipe.build", played.build)
    monkeypatch.setattr("banger.image.kernel.fetch", played.fetch)
    monkeypatch.setattr(service, "build_initramfs", played.initramfs)
    monkeypatch.setattr(service, "guest_program", lambda: program)
    return played


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout.from_environment({"BANGER_HOME": str(tmp_path / "instance")})
    layout.state.mkdir(parents=True, mode=0o700)
    return layout


@pytest.fixture
def database(layout: Layout) -> Iterator[Database]:
    database = Database.open(layout.database)
    yield database
    database.close()


@pytest.fixture
def images(layout: Layout, database: Database, played: Played) -> ImageService:
    return ImageService(layout, ImageTable(database), KernelTable(database), catalog=CATALOG)


def content(layout: Layout) -> dict[str, list[str]]:
    """What lies in the directories of images and kernels, apart from locks."""
    return {
        parent.name: sorted(path.name for path in parent.iterdir() if not path.name.endswith(".lock")) if parent.is_dir() else []
        for parent in (layout.images, layout.kernels)
    }


async def test_pull_makes_the_image_and_its_kernel_with_manifests(images: ImageService, layout: Layout) -> None:
    image = await images.pull("debian-bookworm", silent)
    kernel = images.show_kernel("k")
    assert content(layout) == {"images": [image.id], "kernels": [kernel.id]}
    assert images.list() == (image,) == (images.show("debian-bookworm"),)
    assert images.list_kernels() == (kernel,)
    assert (image.name, image.source, image.kernel_name, image.size_bytes) == ("debian-bookworm", "recipe:debian-bookworm", "k", 5)
    assert image.digest == "sha256:" + hashlib.sha256(b"whole").hexdigest()
    assert (kernel.version, kernel.source, kernel.size_bytes) == ("6.1", "package:linux-image-6.1", 6)
    manifest = json.loads(Path(image.path, "manifest.json").read_text())
    assert manifest["packages"] == {"git": "1"}
    assert manifest["digest"] == image.digest
    assert json.loads(Path(kernel.path, "manifest.json").read_text())["version"] == "6.1"


async def test_pulling_what_is_here_does_nothing(images: ImageService, played: Played) -> None:
    first = await images.pull("debian-bookworm", silent)
    assert await images.pull("debian-bookworm", silent) == first
    assert (played.builds, played.fetches) == (["debian-bookworm"], 1)


async def test_another_image_shares_the_kernel(images: ImageService, played: Played) -> None:
    await asyncio.gather(images.pull("debian-bookworm", silent), images.pull("other", silent))
    assert sorted(played.builds) == ["debian-bookworm", "other"]
    assert played.fetches == 1


async def test_ensure_gives_what_boots_and_is_cheap_the_second_time(images: ImageService, layout: Layout, played: Played) -> None:
    stages: list[str] = []

    def report(stage: str, message: str = "", *, progress: float | None = None, warning: bool = False) -> None:
        stages.append(stage)

    bootable = await images.ensure("debian-bookworm", report)
    assert stages[0] == "auto_pull_image"
    assert bootable.rootfs.read_bytes() == b"whole"
    assert bootable.kernel_file.read_bytes() == b"kernel"
    assert bootable.initramfs == layout.initramfs_cache / "1.cpio"
    stages.clear()
    assert await images.ensure("debian-bookworm", report) == bootable
    assert (stages, played.initramfs_builds) == ([], 1)


async def test_initramfs_is_made_anew_for_another_program_or_when_it_is_gone(images: ImageService, played: Played, tmp_path: Path) -> None:
    first = await images.ensure("debian-bookworm", silent)
    first.initramfs.unlink()
    assert (await images.ensure("debian-bookworm", silent)).initramfs.name == "2.cpio"
    (tmp_path / "banger-guest").write_bytes(b"a longer program")
    assert (await images.ensure("debian-bookworm", silent)).initramfs.name == "3.cpio"
    assert played.initramfs_builds == 3


async def test_two_at_once_build_once(images: ImageService, played: Played, layout: Layout) -> None:
    results = await asyncio.gather(*(images.ensure("debian-bookworm", silent) for _ in range(4)))
    assert len({bootable.image.id for bootable in results}) == 1
    assert (played.builds, played.fetches) == (["debian-bookworm"], 1)
    assert [len(names) for names in content(layout).values()] == [1, 1]


async def test_a_build_goes_on_until_its_last_waiter_leaves(images: ImageService, played: Played, layout: Layout) -> None:
    played.gate.clear()
    callers = [asyncio.create_task(images.pull("debian-bookworm", silent)) for _ in range(2)]
    await played.begun.wait()
    callers[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await callers[0]
    assert len(content(layout)["images"]) == 1
    callers[1].cancel()
    with pytest.raises(asyncio.CancelledError):
        await callers[1]
    assert content(layout)["images"] == []
    assert images.list() == ()
    played.gate.set()
    await images.pull("debian-bookworm", silent)
    assert len(played.builds) == 2


@pytest.mark.parametrize("which", ["failure", "fetch_failure"])
async def test_a_failure_leaves_nothing_half_made(images: ImageService, played: Played, layout: Layout, which: str) -> None:
    setattr(played, which, CommandFailed("the network is down"))
    with pytest.raises(CommandFailed, match="the network is down"):
        await images.pull("debian-bookworm", silent)
    assert not [name for names in content(layout).values() for name in names if name.endswith(".staging")]
    assert images.list() == ()
    setattr(played, which, None)
    assert (await images.ensure("debian-bookworm", silent)).image.name == "debian-bookworm"


async def test_a_row_that_cannot_be_written_takes_the_directory_back(images: ImageService, layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: ImageTable, record: ImageRecord) -> None:
        raise AlreadyExists("taken")

    monkeypatch.setattr(ImageTable, "insert", refuse)
    with pytest.raises(AlreadyExists):
        await images.pull("debian-bookworm", silent)
    assert content(layout)["images"] == []


@pytest.mark.parametrize("verb", ["ensure", "pull"])
async def test_unknown_names_give_the_nearest(images: ImageService, layout: Layout, verb: str) -> None:
    with pytest.raises(NotFound, match=f"no image '{MISSING}'") as caught:
        await getattr(images, verb)(MISSING, silent)
    assert "did you mean debian-bookworm?" in caught.value.hint
    assert content(layout) == {"images": [], "kernels": []}
    with pytest.raises(NotFound, match=r"no image '\.\./\.\./etc'"):
        await getattr(images, verb)("../../etc", silent)


def test_show_tells_absent_from_unknown(images: ImageService) -> None:
    with pytest.raises(NotFound) as caught:
        images.show("debian-bookworm")
    assert caught.value.hint == "banger image pull debian-bookworm"
    with pytest.raises(NotFound, match="no image 'x'"):
        images.show("x")
    with pytest.raises(NotFound, match="no kernel 'x'"):
        images.show_kernel("x")


def test_catalog_is_shown(images: ImageService) -> None:
    assert [(entry.name, entry.description, entry.kernel) for entry in images.catalog()] == [("debian-bookworm", "an image", "k"), ("other", "an image", "k")]


async def test_delete_removes_the_image_and_keeps_the_kernel(images: ImageService, layout: Layout) -> None:
    image = await images.pull("debian-bookworm", silent)
    assert await images.delete("debian-bookworm") == image
    assert content(layout) == {"images": [], "kernels": [images.show_kernel("k").id]}
    with pytest.raises(NotFound):
        await images.delete("debian-bookworm")
    assert (await images.pull("debian-bookworm", silent)).id != image.id


async def test_delete_of_an_image_whose_files_are_gone(images: ImageService, layout: Layout) -> None:
    image = await images.pull("debian-bookworm", silent)
    Path(image.path, "rootfs.ext4").unlink()
    with pytest.raises(BangerError, match="is damaged") as caught:
        await images.ensure("debian-bookworm", silent)
    assert caught.value.hint == "banger image delete debian-bookworm, then banger image pull debian-bookworm"
    Path(image.path, "manifest.json").unlink()
    Path(image.path).rmdir()
    await images.delete("debian-bookworm")
    assert content(layout)["images"] == []


async def test_delete_is_refused_while_a_machine_uses_it(images: ImageService, database: Database, layout: Layout) -> None:
    image = await images.pull("debian-bookworm", silent)
    spec = VMSpec(vcpu_count=1, memory_mib=256, system_overlay_bytes=1, work_disk_bytes=1)
    VMTable(database).insert(
        VMRecord(
            id=new_id(),
            name="box",
            image_id=image.id,
            image_name=image.name,
            state=VMState.STOPPED,
            created_at=1.0,
            updated_at=1.0,
            touched_at=1.0,
            spec=spec,
        )
    )
    with pytest.raises(BadRequest, match="in use"):
        await images.delete("debian-bookworm")
    assert content(layout)["images"] == [image.id]
    assert images.show("debian-bookworm") == image


async def test_at_start_leftovers_go_and_images_stay(images: ImageService, layout: Layout) -> None:
    image = await images.pull("debian-bookworm", silent)
    before = content(layout)
    for parent, name in ((layout.images, "debian-bookworm"), (layout.images, "gone-from-the-catalog"), (layout.kernels, "k")):
        (staging_path(parent, name, new_id()) / "tree").mkdir(parents=True)
    (layout.images / new_id()).mkdir()
    await images.remove_leftovers()
    assert content(layout) == before
    assert Path(image.path, "rootfs.ext4").exists()
