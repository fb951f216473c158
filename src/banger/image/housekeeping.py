"""What is done with images that are here: copied out, made our own, collected; and the cache of blobs pruned."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import os
import secrets
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Final

from ..host.files import STAGING_SUFFIX, allocated_bytes, sha256_of, sync_directory, write_atomically
from ..model.errors import AlreadyExists, BadRequest, BangerError
from ..model.progress import Report
from ..model.records import ImageRecord
from ..model.sizes import GIB, format_size
from ..store.artifacts import ImageTable
from . import bundle
from .ext4_file import check_ext4
from .oci.blobs import Pruned
from .publication import remove_image
from .service import ImageService
from .sources.background import in_background
from .sources.files import copy_file, file_revision
from .sources.protocol import ROOTFS
from .staging import MANIFEST, name_lock

log = logging.getLogger(__name__)

DEFAULT_BUDGET: Final = 20 * GIB
EXPORT_STAGE: Final = "export_image"
_RECENT_SECONDS: Final = 3600.0
"""Blobs that a pull under way may be about to read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """An image that nobody uses and that is to go, or has gone."""

    image: ImageRecord
    size_bytes: int
    """What it takes on the disk."""
    reason: str
    removed: bool = False
    error: str = ""


class Housekeeping:
    """Works on the images of one instance. Used from the event loop only."""

    def __init__(self, images: ImageTable, service: ImageService) -> None:
        self._images = images
        self._service = service

    async def export(self, word: str, file: Path, report: Report) -> ImageRecord:
        """Write the image as a bundle to the new file ``file``, which appears whole. Raises NotFound, AlreadyExists, BadRequest, NoSpace."""
        image = await self._service.show(word)
        if file.is_dir() or not file.parent.is_dir():
            raise BadRequest(f"{file} cannot be written: {'it is a directory' if file.is_dir() else 'its directory does not exist'}")
        _check_absent(file)
        half = file.with_name(f"{file.name}.{secrets.token_hex(4)}{STAGING_SUFFIX}")
        try:
            await in_background(partial(bundle.write, image, Path(image.path, ROOTFS), half), report, EXPORT_STAGE, f"writing {file.name}")
            _check_absent(file)
            half.rename(file)
        except OSError as error:
            raise BangerError(f"{file} cannot be written: {error.strerror}") from error
        finally:
            half.unlink(missing_ok=True)
        return image

    async def promote(self, word: str, report: Report) -> ImageRecord:
        """Copy the user's file that a registered image uses, so that the image is the daemon's own. Raises NotFound, BadRequest, NoSpace."""
        image = await self._service.show(word)
        directory = Path(image.path)
        async with name_lock(directory.parent, image.name):
            image = await self._service.show(image.id)
            if image.managed:
                raise AlreadyExists(f"image {image.name!r} is the daemon's own already")
            rootfs, half = directory / ROOTFS, directory / f"{ROOTFS}{STAGING_SUFFIX}"
            try:
                half.unlink(missing_ok=True)
                await check_ext4(rootfs)
                revision = file_revision(rootfs)
                await copy_file(rootfs.resolve(), half, report)
                digest = await asyncio.to_thread(sha256_of, half)
                if digest != image.digest:
                    report("promote_image", f"the file has changed since {image.name} was registered", warning=True)
                os.rename(half, rootfs)
            finally:
                half.unlink(missing_ok=True)
            sync_directory(directory)
            promoted = dataclasses.replace(image, managed=True, digest=digest, size_bytes=rootfs.stat().st_size, revision=revision)
            write_atomically(directory / MANIFEST, json.dumps({"version": 1, **asdict(promoted)}, indent=2).encode(), mode=0o644)
            self._images.update(promoted)
            return promoted

    async def collect(self, budget: int | None, report: Report, *, dry_run: bool) -> tuple[Collected, ...]:
        """Remove images that no machine uses: superseded ones, then those least recently used until the rest takes no more than ``budget`` bytes."""
        found = plan(self._images, DEFAULT_BUDGET if budget is None else budget)
        if dry_run:
            return found
        return tuple([await self._remove(one, report) for one in found])

    async def _remove(self, one: Collected, report: Report) -> Collected:
        report("collect_images", f"removing {one.image.name}")
        try:
            await remove_image(self._images, one.image)
        except BangerError as error:  # a machine has begun to use it
            return dataclasses.replace(one, error=error.message)
        return dataclasses.replace(one, removed=True)

    async def prune_cache(self, *, dry_run: bool) -> Pruned:
        """Remove layers and manifests of container images; images themselves do not need them. What a pull under way may use is kept."""
        recent = _RECENT_SECONDS if self._service.busy else 0.0
        return await asyncio.to_thread(self._service.cache.prune, (), unused_for=recent, dry_run=dry_run)


def _check_absent(file: Path) -> None:
    if os.path.lexists(file):
        raise AlreadyExists(f"{file} already exists", hint="remove it first, or write to another file")


def plan(images: ImageTable, budget: int) -> tuple[Collected, ...]:
    """What ``collect`` would remove. A user's own file costs nothing and stays."""
    managed = [image for image in images.list() if image.managed]
    sizes = {image.id: allocated_bytes(Path(image.path, ROOTFS)) for image in managed}
    whole = sum(sizes.values())
    unused = sorted((image for image in managed if not images.users(image.id)), key=lambda image: (not image.superseded, last_use(image)))
    found = []
    for image in unused:
        if not image.superseded and whole <= budget:
            break
        reason = "a newer image has its name" if image.superseded else f"least recently used, and all images take more than {format_size(budget)}"
        found.append(Collected(image=image, size_bytes=sizes[image.id], reason=reason))
        whole -= sizes[image.id]
    return tuple(found)


def last_use(image: ImageRecord) -> float:
    """Seconds since 1970; one that was never used counts from when it was made."""
    return max(image.last_used_at, image.created_at)
