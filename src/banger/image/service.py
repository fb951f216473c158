"""Images of this host: found, made from their sources, replaced, removed."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import Callable, Coroutine
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from ..host.paths import Layout
from ..model.errors import AlreadyExists, BadRequest, BangerError, NotFound
from ..model.names import check_artifact_name, new_id
from ..model.progress import Report
from ..model.records import ImageConfig, ImageRecord, KernelRecord
from ..store.artifacts import ImageTable
from .catalog import DEFAULT_KERNEL, Catalog, CatalogImage, embedded, unknown
from .flights import Flights
from .kernel import VMLINUX
from .kernels import KernelService
from .lookup import find_image
from .oci.blobs import BlobCache
from .publication import remove_image, replace_image
from .sources.choose import Chooser, Wish, is_bare_word, is_path
from .sources.protocol import ROOTFS, STAGE, Made, Source
from .staging import find_leftovers, name_lock, publish, remove_leftover, remove_leftovers, staged

_SPOOL_SECONDS: Final = 24 * 3600.0
UP_TO_DATE: Final = "up_to_date"
"""Stage of the one event of a pull that had nothing to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bootable:
    """Everything of an image that a machine boots from."""

    image: ImageRecord
    kernel: KernelRecord
    rootfs: Path
    kernel_file: Path
    initramfs: Path


class ImageService:
    """The images of one instance. Used from the event loop only."""

    def __init__(self, layout: Layout, images: ImageTable, kernels: KernelService, *, catalog: Callable[[], Catalog] = embedded) -> None:
        self._layout = layout
        self._images = images
        self.kernels = kernels
        self._catalog = catalog
        self._flights: Flights[ImageRecord] = Flights()
        self.cache = BlobCache(layout.oci_cache)
        self.chooser = Chooser(catalog, self.cache)

    @property
    def default_kernel(self) -> str:
        """What boots an image that names no kernel."""
        return DEFAULT_KERNEL

    @property
    def busy(self) -> bool:
        """Whether an image is being made."""
        return self._flights.busy

    async def ensure(self, word: str, report: Report, *, credentials: str = "") -> Bootable:
        """What the image ``word`` (id, name, reference or path) boots from; made first when it is not here, or when the file it names has changed.

        ``credentials``: the caller's logins for registries.
        Raises NotFound with the nearest names, BangerError when files of the image are gone, and whatever ``pull`` raises.
        """
        image = find_image(self._images, word)
        if image is None:
            report("auto_pull_image", f"image {word} is not on this host yet")
            image = await self.pull(Wish(text=word, credentials=credentials), report)
        elif is_path(word) and image.managed:
            image = await self.pull(Wish(text=word), report, name=image.name)
        kernel = await self.kernels.ensure(image.kernel_name, report)
        rootfs, kernel_file = Path(image.path, ROOTFS), Path(kernel.path, VMLINUX)
        if not rootfs.exists():
            raise BangerError(f"image {image.name} is damaged: {rootfs} is gone", hint=f"banger image pull {image.name} makes it anew, for new machines")
        return Bootable(image=image, kernel=kernel, rootfs=rootfs, kernel_file=kernel_file, initramfs=await self.kernels.initramfs_of(kernel))

    async def pull(self, wish: Wish, report: Report, *, name: str = "", again: bool = False) -> ImageRecord:
        """Make the image that is wished for, and its kernel; success when both are there. Callers at the same time share one run, which ends with its last.

        When the source has changed since, the new image takes the name of the old one. ``again``: also when it has not. Raises NotFound, BadRequest,
        AlreadyExists when another image has the name, MissingTool, NoSpace, CommandFailed, and what a registry answers; nothing half-made stays.
        """
        if not wish.kernel and (known := find_image(self._images, wish.text)):
            wish = replace(wish, kernel=known.kernel_name)
        try:
            source = await asyncio.to_thread(self.chooser.choose, wish)
        except NotFound as error:
            raise error if error.hint or is_path(wish.text) else await self._unknown(wish.text) from error
        if not name and is_bare_word(wish.text) and self._images.get(wish.text) is None:
            name = wish.text  # what a catalog calls it is an image of its own, also when its reference is here under another name
        return await self.obtain(source, report, name=name, again=again, asker=wish.credentials)

    async def obtain(self, source: Source, report: Report, *, name: str = "", again: bool = False, asker: str = "") -> ImageRecord:
        """As ``pull``, for a source that is chosen. Callers who differ in ``asker`` share no run: one may be let in where another is not."""
        name = check_artifact_name(name) if name else self._free_name(source)
        key = f"{name} {source.origin} {asker}"
        return await self._flights.join(key, lambda shared: self._obtain(name, source, again, shared), report)

    def check_free(self, name: str) -> None:
        """Raises AlreadyExists when an image has that name."""
        if self._images.get(check_artifact_name(name)):
            raise AlreadyExists(f"image {name!r} already exists", hint=f"choose another --name, or: banger image delete {name}")

    def unused_name(self, name: str) -> str:
        """``name``, or when an image has it the first of ``name-2``, ``name-3`` ... that none has."""
        names = (name, *(f"{name}-{number}" for number in range(2, len(self._images.list()) + 3)))
        return next(one for one in names if self._images.get(one) is None)

    def list(self) -> tuple[ImageRecord, ...]:
        """The images that are here."""
        return self._images.list()

    async def show(self, word: str) -> ImageRecord:
        """The image of that name, reference or id. Raises NotFound."""
        if image := find_image(self._images, word):
            return image
        with contextlib.suppress(BadRequest):  # a mistake in a catalog is no answer to this question
            if (await asyncio.to_thread(self._catalog)).knows(word):
                raise NotFound(f"image {word!r} is not on this host", hint=f"banger image pull {word}")
        raise unknown(word, [i.name for i in self._images.list()])

    def config_of(self, image_id: str) -> ImageConfig:
        """Defaults of the programs in machines of that image; none when the image has gone."""
        image = self._images.get_by_id(image_id)
        return ImageConfig() if image is None else image.config

    async def delete(self, word: str) -> ImageRecord:
        """Remove an image; its kernel stays. Raises NotFound, or BadRequest with their names while machines use it."""
        image = await self.show(word)
        await remove_image(self._images, image)
        return image

    async def catalog(self) -> tuple[CatalogImage, ...]:
        """The images that can be pulled by name. Raises BadRequest for a mistake in a catalog."""
        return (await asyncio.to_thread(self._catalog)).images()

    async def settle(self) -> None:
        """At daemon start: remove what interrupted builds and deletions left, and note where the images lie by now."""
        await remove_leftovers(self._layout.images)
        for image in self._images.list():
            self._images.move(image, self._layout.images / image.id)
        await self.kernels.settle()

    async def find_leftovers(self) -> tuple[Path, ...]:
        """What interrupted builds and deletions left, and nobody works on."""
        images = find_leftovers(self._layout.images, {image.id for image in self._images.list()})
        return (*images, *self.kernels.find_leftovers(), *self._old_spools())

    async def discard_leftover(self, path: Path) -> None:
        """Remove one of ``find_leftovers``. Raises BangerError or OSError when something resists."""
        await remove_leftover(path)

    def _old_spools(self) -> tuple[Path, ...]:
        """What command lines that were killed have left of what came through a pipe."""
        spools = self._layout.spool.iterdir() if self._layout.spool.is_dir() else ()
        return tuple(path for path in spools if time.time() - path.stat().st_mtime > _SPOOL_SECONDS)

    async def _unknown(self, word: str) -> NotFound:
        error = unknown(word, [*(i.name for i in await self.catalog()), *(i.name for i in self._images.list())])
        error.hint += f"; Docker Hub's image of that name is docker://{word}"
        return error

    def _free_name(self, source: Source) -> str:
        """The name of the image of that reference, else the source's own, with something of its origin when another image has that."""
        if known := find_image(self._images, source.reference):
            return known.name
        taken = self._images.get(source.name)
        if taken is None or taken.reference == source.reference:
            return source.name
        return f"{source.name}-{hashlib.sha256(source.origin.encode()).hexdigest()[:8]}"

    async def _obtain(self, name: str, source: Source, again: bool, report: Report) -> ImageRecord:
        await self.kernels.check_known(source.kernel)
        previous = self._images.get(name)
        if previous is not None:
            _check_same_source(previous, source)
            if not again and previous.revision == await source.revision(report) and Path(previous.path, ROOTFS).exists():
                return await self._keep(previous, source.kernel, report)
        image, _ = await _together(self._make(name, source, previous, report), self.kernels.ensure(source.kernel, report))
        return image

    async def _keep(self, image: ImageRecord, kernel: str, report: Report) -> ImageRecord:
        """The image as it is, but for its kernel."""
        await self.kernels.ensure(kernel, report)
        if image.kernel_name != kernel:
            report(STAGE, f"{image.name} boots with {kernel} from now on, no longer with {image.kernel_name}", warning=True)
            image = replace(image, kernel_name=kernel)
            self._images.update(image)
        report(UP_TO_DATE, f"{image.name} is up to date", progress=1.0)
        return image

    async def _make(self, name: str, source: Source, previous: ImageRecord | None, report: Report) -> ImageRecord:
        async with name_lock(self._layout.images, name):
            current = self._images.get(name)
            if current is not None and (previous is None or current.id != previous.id):
                _check_same_source(current, source)
                return current  # another process was quicker
            identifier = new_id()
            final = self._layout.images / identifier
            async with staged(self._layout.images, name, identifier) as staging:
                made = await source.make(staging, report)
                kernel = await self._kernel_of(source, made, report)
                record = self._record(name, identifier, source, made, staging / ROOTFS, kernel)
                await publish(staging, final, asdict(record) | dict(made.facts))
            await replace_image(self._images, record, current)
            report(STAGE, f"image {name} is ready", progress=1.0)
            return record

    def _record(self, name: str, identifier: str, source: Source, made: Made, rootfs: Path, kernel: str) -> ImageRecord:
        return ImageRecord(
            id=identifier,
            name=name,
            source=source.origin,
            path=str(self._layout.images / identifier),
            digest=made.digest,
            size_bytes=rootfs.stat().st_size,
            kernel_name=kernel,
            created_at=time.time(),
            reference=source.reference,
            manifest_digest=made.manifest_digest,
            revision=made.revision,
            config=made.config,
            managed=not rootfs.is_symlink(),
        )

    async def _kernel_of(self, source: Source, made: Made, report: Report) -> str:
        """The kernel that was chosen with the source, else the one it asks for itself when that can be had here."""
        if source.kernel != DEFAULT_KERNEL or not made.kernel or made.kernel == source.kernel:
            return source.kernel
        if self.kernels.has(made.kernel) or made.kernel in (await asyncio.to_thread(self._catalog)).kernels:
            return made.kernel
        report(STAGE, f"its kernel {made.kernel[:100]!r} is not known here: it boots with {source.kernel}", warning=True)
        return source.kernel


def _check_same_source(image: ImageRecord, source: Source) -> None:
    """Raises AlreadyExists when the image was made of something else."""
    if image.reference != source.reference or (not source.reference and image.source != source.origin):
        raise AlreadyExists(f"image {image.name!r} already exists, made of {image.source}", hint=f"choose another --name, or: banger image delete {image.name}")


async def _together(first: Coroutine[Any, Any, ImageRecord], second: Coroutine[Any, Any, KernelRecord]) -> tuple[ImageRecord, KernelRecord]:
    """Both results, made side by side; when one fails the other is cancelled and has ended before the failure is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            one, two = group.create_task(first), group.create_task(second)
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from failed
    return one.result(), two.result()
