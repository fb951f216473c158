"""From the digest of an index or a manifest to the manifest for one platform."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from ...model.errors import BangerError
from .manifest import Manifest, Platform, choose, decode_document

_DEPTH: Final = 4


async def select_manifest(read: Callable[[str], Awaitable[bytes]], digest: str, platform: Platform, where: str) -> Manifest:
    """Follow indexes from ``digest``; ``read`` gives the checked document of a digest. Raises BangerError when there is nothing for the platform."""
    for _ in range(_DEPTH):
        document = decode_document(await read(digest), where)
        if isinstance(document, Manifest):
            return document
        digest = choose(document, platform, where).digest
    raise BangerError(f"{where}: more than {_DEPTH} indexes lie inside each other")
