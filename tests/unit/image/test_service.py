"""Images and kernels over the real store; building and fetching are played, their results are small files."""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path
from typing import cast

import pytest

from banger.host.paths import Layout
from banger.image.catalog import Catalog, Distribution, KernelRecipe, Recipe
from banger.image.kernels import KernelService
from banger.image.recipe import Tree
from banger.image.service import ImageService
from banger.image.sources.choose import Wish
from banger.image.staging import staging_path
from banger.model.errors import AlreadyExists, BadRequest, BangerError, CommandFailed, NotFound
from banger.model.names import new_id
from banger.model.progress import Report, silent
from banger.model.records import ImageRecord, VMRecord, VMSpec, VMState
from banger.store import Database, ImageTable, VMTable
from tests.unit.image.played import FakeKernels

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
        self.gate = asyncio.Event()
        self.gate.set()
        self.begun = asyncio.Event()
        self.failure: Exception | None = None

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


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Played:
    played = Played()
    monkeypatch.setattr("banger.image.recipe.build", played.build)
    return played


@pytest.fixture
def kernels(layout: Layout) -> FakeKernels:
    return FakeKernels(layout)


@pytest.fixture
def images(layout: Layout, database: Database, played: Played, kernels: FakeKernels) -> ImageService:
    return ImageService(layout, ImageTable(database), cast(KernelService, kernels), catalog=lambda: CATALOG)


def content(layout: Layout) -> list[str]:
    """What lies in the directory of images, apart from locks."""
    return sorted(path.name for path in layout.images.iterdir() if not path.name.endswith(".lock")) if layout.images.is_dir() else []


async def test_pull_makes_the_image_and_its_kernel_with_a_manifest(images: ImageService, layout: Layout, kernels: FakeKernels) -> None:
    image = await images.pull(Wish(text="debian-bookworm"), silent)
    assert content(layout) == [image.id]
    assert list(kernels.made) == ["k"]
    assert images.list() == (image,) == (await images.show("debian-bookworm"),)
    assert (image.name, image.source, image.kernel_name, image.size_bytes) == ("debian-bookworm", "recipe:debian-bookworm", "k", 5)
    assert image.digest == "sha256:" + hashlib.sha256(b"whole").hexdigest()
    manifest = json.loads(Path(image.path, "manifest.json").read_text())
    assert manifest["packages"] == {"git": "1"}
    assert manifest["digest"] == image.digest


async def test_pulling_what_is_here_does_nothing(images: ImageService, played: Played) -> None:
    first = await images.pull(Wish(text="debian-bookworm"), silent)
    assert await images.pull(Wish(text="debian-bookworm"), silent) == first
    assert played.builds == ["debian-bookworm"]


async def test_another_image_shares_the_kernel(images: ImageService, played: Played, kernels: FakeKernels) -> None:
    await asyncio.gather(images.pull(Wish(text="debian-bookworm"), silent), images.pull(Wish(text="other"), silent))
    assert sorted(played.builds) == ["debian-bookworm", "other"]
    assert list(kernels.made) == ["k"]


async def test_ensure_gives_what_boots_by_name_and_by_id(images: ImageService, layout: Layout) -> None:
    stages: list[str] = []

    def report(stage: str, message: str = "", *, progress: float | None = None, warning: bool = False) -> None:
        stages.append(stage)

    bootable = await images.ensure("debian-bookworm", report)
    assert stages[0] == "auto_pull_image"
    assert bootable.rootfs.read_bytes() == b"whole"
    assert bootable.kernel_file.read_bytes() == b"kernel"
    assert bootable.initramfs == layout.kernels / "k.cpio"
    stages.clear()
    assert await images.ensure("debian-bookworm", report) == bootable == await images.ensure(bootable.image.id, report)
    assert stages == []


async def test_two_at_once_build_once(images: ImageService, played: Played, layout: Layout) -> None:
    results = await asyncio.gather(*(images.ensure("debian-bookworm", silent) for _ in range(4)))
    assert len({bootable.image.id for bootable in results}) == 1
    assert played.builds == ["debian-bookworm"]
    assert len(content(layout)) == 1


async def test_a_build_goes_on_until_its_last_waiter_leaves(images: ImageService, played: Played, layout: Layout) -> None:
    played.gate.clear()
    callers = [asyncio.create_task(images.pull(Wish(text="debian-bookworm"), silent)) for _ in range(2)]
    await played.begun.wait()
    while sum(len(flight.listeners) for flight in images._flights._flights.values()) < len(callers):
        await asyncio.sleep(0)
    callers[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await callers[0]
    assert len(content(layout)) == 1
    callers[1].cancel()
    with pytest.raises(asyncio.CancelledError):
        await callers[1]
    assert content(layout) == []
    assert images.list() == ()
    played.gate.set()
    await images.pull(Wish(text="debian-bookworm"), silent)
    assert len(played.builds) == 2


@pytest.mark.parametrize("which", ["image", "kernel"])
async def test_a_failure_leaves_nothing_half_made(images: ImageService, played: Played, kernels: FakeKernels, layout: Layout, which: str) -> None:
    broken: Played | FakeKernels = played if which == "image" else kernels
    broken.failure = CommandFailed("the network is down")
    with pytest.raises(CommandFailed, match="the network is down"):
        await images.pull(Wish(text="debian-bookworm"), silent)
    assert not [name for name in content(layout) if name.endswith(".staging")]
    assert images.list() == ()
    broken.failure = None
    assert (await images.ensure("debian-bookworm", silent)).image.name == "debian-bookworm"


async def test_a_row_that_cannot_be_written_takes_the_directory_back(images: ImageService, layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: ImageTable, record: ImageRecord) -> None:
        raise AlreadyExists("taken")

    monkeypatch.setattr(ImageTable, "insert", refuse)
    with pytest.raises(AlreadyExists):
        await images.pull(Wish(text="debian-bookworm"), silent)
    assert content(layout) == []


async def ask(images: ImageService, verb: str, word: str) -> None:
    await (images.ensure(word, silent) if verb == "ensure" else images.pull(Wish(text=word), silent))


@pytest.mark.parametrize("verb", ["ensure", "pull"])
async def test_unknown_names_give_the_nearest(images: ImageService, layout: Layout, verb: str) -> None:
    with pytest.raises(NotFound, match=f"no image '{MISSING}'") as caught:
        await ask(images, verb, MISSING)
    assert "did you mean debian-bookworm?" in caught.value.hint
    assert content(layout) == []
    assert "docker://debian-bookwrom" in caught.value.hint
    with pytest.raises(BadRequest, match=r"'\.\./\.\./etc' is not an image reference"):
        await ask(images, verb, "../../etc")


async def test_show_tells_absent_from_unknown(images: ImageService) -> None:
    with pytest.raises(NotFound) as caught:
        await images.show("debian-bookworm")
    assert caught.value.hint == "banger image pull debian-bookworm"
    with pytest.raises(NotFound, match="no image 'x'"):
        await images.show("x")


async def test_catalog_is_shown(images: ImageService) -> None:
    assert [(entry.name, entry.description, entry.kernel) for entry in await images.catalog()] == [
        ("debian-bookworm", "an image", "k"),
        ("other", "an image", "k"),
    ]


async def test_delete_removes_the_image_and_keeps_the_kernel(images: ImageService, layout: Layout, kernels: FakeKernels) -> None:
    image = await images.pull(Wish(text="debian-bookworm"), silent)
    assert await images.delete("debian-bookworm") == image
    assert content(layout) == []
    assert kernels.has("k")
    with pytest.raises(NotFound):
        await images.delete("debian-bookworm")
    assert (await images.pull(Wish(text="debian-bookworm"), silent)).id != image.id


async def test_delete_of_an_image_whose_files_are_gone(images: ImageService, layout: Layout) -> None:
    image = await images.pull(Wish(text="debian-bookworm"), silent)
    Path(image.path, "rootfs.ext4").unlink()
    with pytest.raises(BangerError, match="is damaged") as caught:
        await images.ensure("debian-bookworm", silent)
    assert caught.value.hint == "banger image pull debian-bookworm makes it anew, for new machines"
    Path(image.path, "manifest.json").unlink()
    Path(image.path).rmdir()
    await images.delete("debian-bookworm")
    assert content(layout) == []


async def test_delete_is_refused_while_a_machine_uses_it(images: ImageService, database: Database, layout: Layout) -> None:
    image = await images.pull(Wish(text="debian-bookworm"), silent)
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
    with pytest.raises(BadRequest, match="in use by box"):
        await images.delete("debian-bookworm")
    assert content(layout) == [image.id]
    assert await images.show("debian-bookworm") == image


async def test_at_start_leftovers_go_and_images_stay(images: ImageService, layout: Layout) -> None:
    image = await images.pull(Wish(text="debian-bookworm"), silent)
    before = content(layout)
    for parent, name in ((layout.images, "debian-bookworm"), (layout.images, "gone-from-the-catalog")):
        (staging_path(parent, name, new_id()) / "tree").mkdir(parents=True)
    await images.settle()
    assert content(layout) == before
    assert Path(image.path, "rootfs.ext4").exists()
