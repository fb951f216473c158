"""What the routes of images do."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from ..api import image_types as i
from ..api.types import Deleted
from ..image.sources.choose import Wish
from ..image.sources.files import Ext4Source
from ..image.sources.spooled import STDIN, SpooledSource, called_stdin
from ..model.errors import BadRequest
from ..model.records import ImageRecord
from .call import Answer, Call, Work, absolute_path
from .context import Context
from .operations import Operation


async def image_list(context: Context, call: Call) -> tuple[ImageRecord, ...]:
    return context.images.list()


async def image_catalog(context: Context, call: Call) -> tuple[i.CatalogEntry, ...]:
    local = {image.name for image in context.images.list()}
    return tuple(
        i.CatalogEntry(name=one.name, description=one.description, kernel=one.kernel, pulled=one.name in local, source=one.source, size_bytes=one.size_bytes)
        for one in await context.images.catalog()
    )


async def image_show(context: Context, call: Call) -> ImageRecord:
    return await context.images.show(call.path["name"])


async def image_pull(context: Context, call: Call, operation: Operation) -> ImageRecord:
    body: i.PullImage = call.body
    wish = Wish(
        text=body.reference,
        kernel=body.kernel,
        insecure=frozenset(body.insecure_registries),
        digest=body.digest,
        credentials=str(absolute_path(body.credentials)) if body.credentials else "",
    )
    if body.spooled:
        return await _from_stdin(context, wish, operation, body.name or context.images.unused_name(STDIN))
    return await context.images.pull(wish, operation.report, name=body.name)


async def _from_stdin(context: Context, wish: Wish, operation: Operation, name: str) -> ImageRecord:
    context.images.check_free(name)
    place = wish.text.removeprefix("docker-archive:")
    with called_stdin(place):
        source = SpooledSource(await asyncio.to_thread(context.images.chooser.choose, wish), place)
    return await context.images.obtain(source, operation.report, name=name)


async def image_build(context: Context, call: Call, operation: Operation) -> ImageRecord:
    body: i.BuildImage = call.body
    source = await asyncio.to_thread(context.images.chooser.recipe_file, _file(body.recipe), body.kernel)
    return await context.images.obtain(source, operation.report, name=body.name, again=True)


async def image_import(context: Context, call: Call, operation: Operation) -> ImageRecord:
    body: i.ImportImage = call.body
    wish = Wish(text=str(_file(body.file)), kernel=body.kernel, digest=body.digest)
    if not body.spooled:
        return await context.images.pull(wish, operation.report, name=body.name)
    return await _from_stdin(context, wish, operation, body.name)


async def image_register(context: Context, call: Call, operation: Operation) -> ImageRecord:
    body: i.RegisterImage = call.body
    context.images.check_free(body.name)
    source = Ext4Source(path=_file(body.rootfs), kernel=body.kernel or context.images.default_kernel, link=True)
    return await context.images.obtain(source, operation.report, name=body.name)


async def image_export(context: Context, call: Call, operation: Operation) -> ImageRecord:
    body: i.ExportImage = call.body
    return await context.housekeeping.export(call.path["name"], absolute_path(body.file), operation.report)


async def image_promote(context: Context, call: Call, operation: Operation) -> ImageRecord:
    return await context.housekeeping.promote(call.path["name"], operation.report)


async def image_delete(context: Context, call: Call, operation: Operation) -> Deleted:
    operation.report("delete_image", call.path["name"])
    record = await context.images.delete(call.path["name"])
    return Deleted(id=record.id, name=record.name)


async def image_gc(context: Context, call: Call, operation: Operation) -> tuple[i.CollectedImage, ...]:
    body: i.CollectImages = call.body
    collected = await context.housekeeping.collect(body.budget_bytes, operation.report, dry_run=body.dry_run)
    return tuple(
        i.CollectedImage(id=one.image.id, name=one.image.name, size_bytes=one.size_bytes, reason=one.reason, removed=one.removed, error=one.error)
        for one in collected
    )


async def image_prune_cache(context: Context, call: Call, operation: Operation) -> i.PrunedCache:
    body: i.PruneImageCache = call.body
    operation.report("prune_cache", "looking through the cache")
    pruned = await context.housekeeping.prune_cache(dry_run=body.dry_run)
    return i.PrunedCache(count=pruned.count, size_bytes=pruned.size_bytes, removed=not body.dry_run, kept=pruned.kept)


def _file(text: str) -> Path:
    path = absolute_path(text)
    if not path.is_file():
        raise BadRequest(f"there is no file {path}")
    return path


IMAGE_ANSWERS: Final[dict[str, Answer]] = {"image.list": image_list, "image.catalog": image_catalog, "image.show": image_show}
IMAGE_WORKS: Final[dict[str, Work]] = {
    "image.pull": image_pull,
    "image.build": image_build,
    "image.import": image_import,
    "image.register": image_register,
    "image.export": image_export,
    "image.promote": image_promote,
    "image.delete": image_delete,
    "image.gc": image_gc,
    "image.prune_cache": image_prune_cache,
}
