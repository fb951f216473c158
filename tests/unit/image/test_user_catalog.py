"""Images by the names of a user's catalog, and what a mistake in one leaves alone."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from banger.host.paths import Layout
from banger.image.catalog_files import CatalogFiles
from banger.image.kernels import KernelService
from banger.image.service import ImageService
from banger.image.sources.choose import Wish
from banger.model.errors import BadRequest, NotFound
from banger.model.progress import silent
from banger.store import Database, ImageTable
from tests.ociimages import make_image, tar_of, write_layout
from tests.unit.image.played import FakeKernels, PlayedSource

IMAGE = make_image([tar_of({"etc/os-release": b"ID=test\n"})])


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "catalog.d"
    path.mkdir()
    return path


@pytest.fixture
def images(layout: Layout, database: Database, directory: Path) -> ImageService:
    return ImageService(layout, ImageTable(database), cast(KernelService, FakeKernels(layout)), catalog=CatalogFiles((directory,)).read)


async def test_a_name_works_though_its_reference_is_here_under_another(images: ImageService, directory: Path, tmp_path: Path) -> None:
    reference = f"oci:{write_layout(tmp_path / 'layout', {'1': IMAGE})}:1"
    other = await images.pull(Wish(text=reference, kernel="old"), silent, name="other")
    (directory / "mine.toml").write_text(f'[images.dev]\nreference = "{reference}"\nkernel = "new"\n')
    with pytest.raises(NotFound) as caught:
        await images.show("dev")
    assert caught.value.hint == "banger image pull dev"
    pulled = await images.pull(Wish(text="dev"), silent)
    assert (pulled.name, pulled.kernel_name, pulled.manifest_digest) == ("dev", "new", other.manifest_digest)
    assert await images.show("dev") == pulled
    assert await images.show("other") == other, "with the kernel that it had"
    assert await images.pull(Wish(text="dev"), silent) == pulled
    assert (await images.ensure("dev", silent)).image == pulled
    assert len(images.list()) == 2


async def test_another_kernel_for_an_image_is_told(images: ImageService) -> None:
    said: list[str] = []

    def report(stage: str, message: str = "", *, progress: float | None = None, warning: bool = False) -> None:
        said.extend([message] if warning else [])

    await images.obtain(PlayedSource(kernel="old"), silent)
    assert (await images.obtain(PlayedSource(kernel="new"), report)).kernel_name == "new"
    assert said == ["dev boots with new from now on, no longer with old"]


async def test_a_mistake_breaks_only_what_needs_the_catalog(images: ImageService, directory: Path, tmp_path: Path) -> None:
    image = await images.obtain(PlayedSource(), silent)
    (directory / "mine.toml").symlink_to("/nowhere")
    assert (await images.ensure("dev", silent)).image == image
    assert await images.show("dev") == image
    with pytest.raises(NotFound, match="no image 'nothing'"):
        await images.show("nothing")
    reference = f"oci:{write_layout(tmp_path / 'layout', {'1': IMAGE})}:1"
    assert (await images.pull(Wish(text=reference), silent)).reference == reference
    for needs in (images.catalog(), images.pull(Wish(text="debian-bookworm"), silent)):
        with pytest.raises(BadRequest, match=r"mine\.toml cannot be read"):
            await needs
