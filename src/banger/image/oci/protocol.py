"""Where images come from, however they are kept there."""

from __future__ import annotations

from typing import Protocol

from .manifest import Descriptor, Manifest, Platform
from .partial import Partial


class Source(Protocol):
    """One reference at its place."""

    async def resolve(self) -> str:
        """``sha256:...`` of what the reference leads to today; fetches nothing large. Raises NotFound, Unauthorized, BangerError."""

    async def manifest(self, digest: str, platform: Platform) -> Manifest:
        """The image for this platform below what ``resolve`` returned. Raises as it does."""

    async def load(self, blob: Descriptor, partial: Partial) -> None:
        """Bring the bytes of a blob of the manifest from ``partial.offset`` on. Raises as ``resolve`` does."""
