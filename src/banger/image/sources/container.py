"""Container images: from a registry, an OCI layout or a docker archive."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from ...model.progress import Report
from ..flatten.limits import Limits
from ..flatten.pipeline import flatten
from ..oci.blobs import BlobCache
from ..oci.reference import Reference
from ..oci.source import fetch, resolve
from .names import name_of_reference
from .protocol import ROOTFS, Made


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerSource:
    """A reference, and the cache that its blobs go through."""

    where: Reference
    cache: BlobCache
    kernel: str
    catalog_name: str = ""
    """Its short name in a catalog."""
    digest: str = ""
    """``sha256:...`` that the catalog pins it to."""
    insecure: frozenset[str] = frozenset()
    """Hosts that may be spoken to without TLS."""
    credentials: Path | None = None
    """File with the caller's logins."""

    @property
    def origin(self) -> str:
        return str(self.where)

    @property
    def name(self) -> str:
        return self.catalog_name or name_of_reference(self.where)

    @property
    def reference(self) -> str:
        return str(self.where)

    async def revision(self, report: Report) -> str:
        """The digest that the reference leads to; a pinned one needs no network."""
        if pinned := self.digest or self.where.digest:
            return pinned
        report("resolve_image", f"asking for {self.where}")
        return await resolve(self.where, self.cache, report, insecure=self.insecure, credentials=self.credentials)

    async def make(self, staging: Path, report: Report) -> Made:
        """Raises NotFound, Unauthorized, NoSpace, BadRequest for an archive that must not be unpacked, BangerError."""
        pinned = dataclasses.replace(self.where, digest=self.digest) if self.digest else self.where
        fetched = await fetch(pinned, self.cache, report, insecure=self.insecure, credentials=self.credentials)
        flattened = await flatten(fetched.layers, staging / ROOTFS, staging, limits=Limits(), report=report)
        return Made(
            digest=flattened.digest,
            manifest_digest=fetched.manifest_digest,
            revision=fetched.manifest_digest,
            config=fetched.config,
            facts={"layers": [layer.digest for layer in fetched.layers], "created": fetched.created, "entries": flattened.entries},
        )
