"""OCI layouts: a directory, or a tar archive of one (OCI image specification, image-layout.md)."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Final

from ...model.errors import BadRequest, BangerError, NotFound
from .manifest import LINUX_AMD64, MANIFEST_LIMIT, Descriptor, Index, Manifest, Platform, choose, decode_document
from .members import Members, copy
from .partial import Partial
from .selection import select_manifest

_NAME: Final = "org.opencontainers.image.ref.name"


class LayoutSource:
    """One image of a layout; the only one when no tag is given."""

    def __init__(self, members: Members, tag: str, where: str) -> None:
        self._members = members
        self._tag = tag
        self._where = where

    async def resolve(self) -> str:
        """Digest of the entry of index.json."""
        try:
            untrusted = await self._read("index.json")
        except NotFound as error:
            raise NotFound(f"{self._where} is not an OCI layout: {error.message}", hint="skopeo copy and buildah push make such directories") from error
        index = decode_document(untrusted, self._where)
        if not isinstance(index, Index):
            raise BangerError(f"{self._where}: index.json is not an index")
        return self._choose(index).digest

    async def manifest(self, digest: str, platform: Platform) -> Manifest:
        """Of the blobs of the layout."""
        return await select_manifest(self._document, digest, platform, self._where)

    async def load(self, blob: Descriptor, partial: Partial) -> None:
        """Copy the blob's file."""
        with self._members.opened(_blob_name(blob.digest)) as extent:
            if extent.size != blob.size:
                raise BangerError(f"{self._where}: {blob.digest} has {extent.size} bytes, the manifest says {blob.size}")
            await copy(extent, partial)

    def _choose(self, index: Index) -> Descriptor:
        names = [(entry.annotations or {}).get(_NAME, "") for entry in index.manifests]
        there = ", ".join(sorted({name for name in names if name})) or "none has a tag"
        if self._tag:
            named = [entry for entry, name in zip(index.manifests, names, strict=True) if name == self._tag]
            if not named:
                raise NotFound(f"{self._where}: there is no such tag", hint=f"tags there: {there}")
            return named[0] if len(named) == 1 else choose(Index(named), LINUX_AMD64, self._where)
        if len(set(names)) > 1:
            raise BadRequest(f"{self._where} holds several images", hint=f"add one of the tags: {there}")
        if not index.manifests:
            raise NotFound(f"{self._where} holds no image")
        return index.manifests[0] if len(index.manifests) == 1 else choose(index, LINUX_AMD64, self._where)

    async def _document(self, digest: str) -> bytes:
        untrusted = await self._read(_blob_name(digest))
        if "sha256:" + hashlib.sha256(untrusted).hexdigest() != digest:
            raise BangerError(f"{self._where}: the file of {digest} is damaged, it has another digest")
        return untrusted

    async def _read(self, name: str) -> bytes:
        return await asyncio.to_thread(read_small, self._members, name, MANIFEST_LIMIT, self._where)


def read_small(members: Members, name: str, limit: int, where: str) -> bytes:
    """The whole of a file of at most ``limit`` bytes. Raises NotFound, BangerError."""
    with members.opened(name) as extent:
        if extent.size > limit:
            raise BangerError(f"{where}: {name} is larger than {limit} bytes")
        return extent.read(0, extent.size)


def _blob_name(digest: str) -> str:
    return f"blobs/sha256/{digest.removeprefix('sha256:')}"
