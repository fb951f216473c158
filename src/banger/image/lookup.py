"""Finding an image by what a user or a machine's record calls it."""

from __future__ import annotations

import re
from typing import Final

from ..model.errors import BadRequest
from ..model.records import ImageRecord
from ..store.artifacts import ImageTable
from .oci.reference import parse

_ID: Final = re.compile(r"[0-9a-f]{32}")
_BARE_WORD: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def find_image(images: ImageTable, word: str) -> ImageRecord | None:
    """The image of that id, name, or reference (a container reference in any spelling, a path, a URL); None when there is none."""
    if _ID.fullmatch(word) and (image := images.get_by_id(word)):
        return image
    if image := images.get(word):
        return image
    wanted = {word} | _canonical(word)
    return next((image for image in images.list() if image.reference in wanted and not image.superseded), None) if word else None


def _canonical(word: str) -> set[str]:
    if word.startswith(("/", "http://", "https://")) or _BARE_WORD.fullmatch(word):
        return set()
    try:
        return {str(parse(word))}
    except BadRequest:
        return set()
