"""What a fetched container image is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ...model.records import ImageConfig

Compression = Literal["none", "gzip", "zstd"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One layer: a tar archive, perhaps compressed, in a file whose content has the digest."""

    path: Path
    """The blob as it came, still compressed."""
    media_type: str
    compression: Compression
    digest: str
    """``sha256:...`` of the blob."""
    diff_id: str
    """``sha256:...`` that the uncompressed tar must have, as the image's configuration says; whoever unpacks it checks it."""
    size_bytes: int
    """Of the blob."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchedImage:
    """A complete image in the cache."""

    reference: str
    """Canonical form of what was asked for."""
    manifest_digest: str
    """``sha256:...`` of what the reference led to: of the index when there is one, else of the manifest. Equal as long as the tag is unchanged."""
    config_digest: str
    layers: tuple[Layer, ...]
    """The lowest first."""
    config: ImageConfig
    created: str
    """When the image was made, RFC 3339 as its maker wrote it; "" when it does not say."""
    size_bytes: int
    """Sum of the layers' blobs."""
