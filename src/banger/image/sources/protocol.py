"""What every kind of source can do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from ...model.progress import Report
from ...model.records import ImageConfig

ROOTFS: Final = "rootfs.ext4"
STAGE: Final = "build_image"


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What a source has left in its staging directory: ``rootfs.ext4``, and what is known about it."""

    digest: str
    """``sha256:...`` of rootfs.ext4."""
    manifest_digest: str = ""
    """Of the container image."""
    revision: str = ""
    """As ``Source.revision`` would have said when this was made."""
    config: ImageConfig = field(default_factory=ImageConfig)
    kernel: str = ""
    """Kernel that the source itself asks for; "" = the one it was chosen with."""
    facts: Mapping[str, object] = field(default_factory=dict)
    """More for the image's manifest.json."""


class Source(Protocol):
    """Something that an image can be made of."""

    @property
    def origin(self) -> str:
        """For people, and the ``source`` of the record: ``recipe:NAME``, ``docker://...``, ``file:PATH``, a URL."""

    @property
    def name(self) -> str:
        """The name that an image of it gets when nobody chooses one; may be an image's and a directory's name."""

    @property
    def reference(self) -> str:
        """What the image is also found by; "" = only by its name."""

    @property
    def kernel(self) -> str:
        """Name of the kernel that it boots with."""

    async def revision(self, report: Report) -> str:
        """What tells whether the source has changed; "" when only its name tells. Cheap: no content is moved. Raises what looking at it raises."""

    async def make(self, staging: Path, report: Report) -> Made:
        """Fill ``staging`` (ours, empty) with ``rootfs.ext4`` and nothing else. The caller removes ``staging`` when this raises."""
