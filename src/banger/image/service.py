"""Images and kernels of this host: found, made when the catalog knows them, removed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Coroutine
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from ..guest.initramfs import build_initramfs
from ..guest.program import guest_program
from ..host.files import sha256_of
from ..host.paths import Layout
from ..model.errors import BangerError, NotFound
from ..model.names import new_id
from ..model.progress import Report
from ..model.records import ImageRecord, KernelRecord
from ..store.artifacts import ImageTable, KernelTable
from . import kernel as kernels
from . import recipe as recipes
from .catalog import Catalog, CatalogImage, embedded, unknown
from .flights import Flights
from .staging import discard, find_leftovers, name_lock, publish, remove_leftover, remove_leftovers, staged, staging_path

Artifact = TypeVar("Artifact", ImageRecord, KernelRecord)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bootable:
    """Everything of an image that a machine boots from."""

    image: ImageRecord
    kernel: KernelRecord
    rootfs: Path
    kernel_file: Path
    initramfs: Path


class ImageService:
    """The images and kernels of one instance. Used from the event loop only."""

    def __init__(self, layout: Layout, images: ImageTable, kernels: KernelTable, *, catalog: Catalog | None = None) -> None:
        self._layout = layout
        self._images = images
        self._kernels = kernels
        self._catalog = catalog or embedded()
        self._image_flights: Flights[ImageRecord] = Flights()
        self._kernel_flights: Flights[KernelRecord] = Flights()
        self._initramfs: dict[tuple[str, int, int], Path] = {}

    async def ensure(self, name: str, report: Report) -> Bootable:
        """What image ``name`` boots from; made first when only the catalog has it.

        Raises NotFound with the nearest names, BangerError when files of the image are gone, and whatever ``pull`` raises.
        """
        image = self._images.get(name)
        if image is None:
            self._check_known(name)
            report("auto_pull_image", f"image {name} is not on this host yet")
            image = await self.pull(name, report)
        kernel = self._kernels.get(image.kernel_name) or await self._pull_kernel(image.kernel_name, report)
        rootfs, kernel_file = Path(image.path, recipes.ROOTFS), Path(kernel.path, kernels.VMLINUX)
        for file, noun, owner in ((rootfs, "image", image.name), (kernel_file, "kernel", kernel.name)):
            if not file.exists():
                raise BangerError(f"{noun} {owner} is damaged: {file} is gone", hint=_remedy(noun, owner))
        return Bootable(image=image, kernel=kernel, rootfs=rootfs, kernel_file=kernel_file, initramfs=await self._initramfs_of(kernel))

    async def pull(self, name: str, report: Report) -> ImageRecord:
        """Make image ``name`` and its kernel; success when they are there. Callers at the same time share one build, which ends with its last waiter.

        Raises NotFound, MissingTool, NoSpace, CommandFailed; nothing half-made stays.
        """
        if (image := self._images.get(name)) and self._kernels.get(image.kernel_name):
            return image
        self._check_known(name)
        return await self._image_flights.join(name, lambda shared: self._make_image_and_kernel(name, shared), report)

    def _check_known(self, name: str) -> None:
        """Raises NotFound, with the nearest names, for an image that the catalog does not know."""
        if name not in self._catalog.recipes:
            raise unknown(name, [*self._catalog.recipes, *(i.name for i in self._images.list())])

    def list(self) -> tuple[ImageRecord, ...]:
        """The images that are here."""
        return self._images.list()

    def show(self, name: str) -> ImageRecord:
        """The image of that name. Raises NotFound."""
        if image := self._images.get(name):
            return image
        if name in self._catalog.recipes:
            raise NotFound(f"image {name!r} is not on this host", hint=f"banger image pull {name}")
        raise unknown(name, [i.name for i in self._images.list()])

    async def delete(self, name: str) -> ImageRecord:
        """Remove an image; its kernel stays. Raises NotFound, or BadRequest while a VM uses it."""
        image = self.show(name)
        self._images.delete(name)
        path = Path(image.path)
        aside = staging_path(path.parent, name, path.name)
        with contextlib.suppress(FileNotFoundError):
            path.rename(aside)
        await discard(aside)
        return image

    def list_kernels(self) -> tuple[KernelRecord, ...]:
        """The kernels that are here."""
        return self._kernels.list()

    def show_kernel(self, name: str) -> KernelRecord:
        """The kernel of that name. Raises NotFound."""
        if kernel := self._kernels.get(name):
            return kernel
        raise unknown(name, [k.name for k in self._kernels.list()], "kernel")

    def catalog(self) -> tuple[CatalogImage, ...]:
        """The images that can be pulled by name."""
        return self._catalog.images()

    async def remove_leftovers(self) -> None:
        """At daemon start: remove what interrupted builds and deletions left."""
        await remove_leftovers(self._layout.images, {Path(image.path) for image in self._images.list()})
        await remove_leftovers(self._layout.kernels, {Path(kernel.path) for kernel in self._kernels.list()})

    async def find_leftovers(self) -> tuple[Path, ...]:
        """What interrupted builds and deletions left, and nobody works on."""
        images = find_leftovers(self._layout.images, {Path(image.path) for image in self._images.list()})
        kernels_left = find_leftovers(self._layout.kernels, {Path(kernel.path) for kernel in self._kernels.list()})
        return (*images, *kernels_left)

    async def discard_leftover(self, path: Path) -> None:
        """Remove one of ``find_leftovers``. Raises BangerError or OSError when something resists."""
        await remove_leftover(path)

    async def _make_image_and_kernel(self, name: str, report: Report) -> ImageRecord:
        image, _ = await _together(
            self._make_image(name, report),
            self._pull_kernel(self._catalog.recipes[name].kernel, report),
        )
        return image

    async def _make_image(self, name: str, report: Report) -> ImageRecord:
        async with name_lock(self._layout.images, name):
            if image := self._images.get(name):
                return image  # another process was quicker
            identifier, recipe = new_id(), self._catalog.recipes[name]
            final = self._layout.images / identifier
            async with staged(self._layout.images, name, identifier) as staging:
                tree = await recipes.build(recipe, self._catalog.distributions[recipe.distribution], staging, report)
                rootfs = staging / recipes.ROOTFS
                record = ImageRecord(
                    id=identifier,
                    name=name,
                    source=f"recipe:{name}",
                    path=str(final),
                    digest=await asyncio.to_thread(sha256_of, rootfs),
                    size_bytes=rootfs.stat().st_size,
                    kernel_name=recipe.kernel,
                    created_at=time.time(),
                )
                await publish(staging, final, asdict(record) | {"suite": recipe.suite, "packages": tree.packages})
            await _insert_or_discard(self._images.insert, record)
            report(recipes.STAGE, f"image {name} is ready", progress=1.0)
            return record

    async def _pull_kernel(self, name: str, report: Report) -> KernelRecord:
        if kernel := self._kernels.get(name):
            return kernel
        if name not in self._catalog.kernels:
            raise unknown(name, self._catalog.kernels, "kernel")
        return await self._kernel_flights.join(name, lambda shared: self._make_kernel(name, shared), report)

    async def _make_kernel(self, name: str, report: Report) -> KernelRecord:
        async with name_lock(self._layout.kernels, name):
            if kernel := self._kernels.get(name):
                return kernel
            identifier, recipe = new_id(), self._catalog.kernels[name]
            final = self._layout.kernels / identifier
            async with staged(self._layout.kernels, name, identifier) as staging:
                release = await kernels.fetch(recipe, self._catalog.distributions[recipe.distribution], staging, report)
                vmlinux = staging / kernels.VMLINUX
                record = KernelRecord(
                    id=identifier,
                    name=name,
                    source=f"package:{release.package}",
                    path=str(final),
                    version=release.version,
                    digest=await asyncio.to_thread(sha256_of, vmlinux),
                    size_bytes=vmlinux.stat().st_size,
                    created_at=time.time(),
                )
                await publish(staging, final, asdict(record) | {"suite": recipe.suite, "package": release.package})
            await _insert_or_discard(self._kernels.insert, record)
            report(kernels.STAGE, f"kernel {name} ({release.version}) is ready")
            return record

    async def _initramfs_of(self, kernel: KernelRecord) -> Path:
        """The initramfs for this kernel and the present guest program; remembered, since this is on the way of every start."""
        program = guest_program()
        info = program.stat()
        key = (kernel.id, info.st_mtime_ns, info.st_size)
        if path := self._initramfs.get(key):
            try:
                os.utime(path)  # marks it as used for the cache's own pruning
                return path
            except FileNotFoundError:
                del self._initramfs[key]
        path = self._initramfs[key] = await asyncio.to_thread(build_initramfs, Path(kernel.path), program, self._layout.initramfs_cache)
        return path


async def _insert_or_discard(insert: Callable[[Artifact], None], record: Artifact) -> None:
    """Add the row of a published directory, or take the directory back."""
    try:
        insert(record)
    except BaseException:
        await discard(Path(record.path))
        raise


async def _together(first: Coroutine[Any, Any, ImageRecord], second: Coroutine[Any, Any, KernelRecord]) -> tuple[ImageRecord, KernelRecord]:
    """Both results, made side by side; when one fails the other is cancelled and has ended before the failure is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            one, two = group.create_task(first), group.create_task(second)
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from failed
    return one.result(), two.result()


def _remedy(noun: str, name: str) -> str:
    return f"banger image delete {name}, then banger image pull {name}" if noun == "image" else "restore it, or start afresh in another BANGER_HOME"
