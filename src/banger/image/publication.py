"""An image's row and its directory: made, replaced and removed together. Machines name images by id, so one in use keeps both when its name moves on."""

from __future__ import annotations

import contextlib
from pathlib import Path

from ..model.records import ImageRecord
from ..store.artifacts import ImageTable
from .staging import discard, staging_path


async def replace_image(images: ImageTable, record: ImageRecord, previous: ImageRecord | None) -> None:
    """Add the row of a published directory; ``previous``, which has its name, is removed or, while machines use it, renamed.

    Takes the directory back when that fails; raises what failed.
    """
    try:
        kept = previous is not None and images.supersede(previous, record, superseded_name(previous))
        if previous is None:
            images.insert(record)
    except BaseException:
        await discard(Path(record.path))
        raise
    if previous is not None and not kept:
        await remove_directory(previous)


async def remove_image(images: ImageTable, image: ImageRecord) -> None:
    """Remove row and directory. Raises BadRequest with their names while machines use it."""
    images.delete(image.name)
    await remove_directory(image)


async def remove_directory(image: ImageRecord) -> None:
    """Remove the directory of an image whose row is gone."""
    path = Path(image.path)
    aside = staging_path(path.parent, image.name, path.name)
    with contextlib.suppress(FileNotFoundError):
        path.rename(aside)
    await discard(aside)


def superseded_name(image: ImageRecord) -> str:
    """What an image is called whose name a newer one has."""
    return f"{image.name[:100]}.{image.id[:12]}"
