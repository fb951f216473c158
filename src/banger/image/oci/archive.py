"""Archives of ``docker save``, ``podman save`` and skopeo (``docker-archive:``): manifest.json, a configuration and a tar per layer.

The format is described in docker's image specification 1.2 (moby, image/spec/v1.2.md). Docker 25 and later make an OCI layout that has a manifest.json too;
an archive without one is read as an OCI layout.
"""

from __future__ import annotations

import asyncio
import hashlib
from typing import Annotated, Final

import msgspec

from ...model.errors import BadRequest, BangerError, NotFound
from .compression import sniff
from .layout import read_small
from .manifest import CONFIG_LIMIT, DOCKER_CONFIG, DOCKER_LAYER, MANIFEST_LIMIT, Descriptor, Manifest, Platform, check_manifest, diff_ids
from .members import Extent, TarMembers, copy
from .partial import Partial
from .reference import archive_name, parse

_BLOCK: Final = 1024 * 1024
_SUFFIXES: Final = {"none": "", "gzip": ".gzip", "zstd": ".zstd"}


class _Entry(msgspec.Struct, frozen=True, rename="pascal"):
    config: str
    layers: Annotated[list[str], msgspec.Meta(max_length=500)]
    repo_tags: list[str] | None = None


class ArchiveSource:
    """One image of an archive; the only one when no name is given."""

    def __init__(self, members: TarMembers, name: str, where: str) -> None:
        self._members = members
        self._name = name
        self._where = where
        self._places: dict[str, str] = {}
        """Digest of a blob -> member that holds it."""

    async def resolve(self) -> str:
        """Digest of the configuration, which is what docker calls the image's id: the archive has no manifest with a digest."""
        entry = await asyncio.to_thread(self._entry)
        return _digest(await asyncio.to_thread(read_small, self._members, entry.config, CONFIG_LIMIT, self._where))

    async def manifest(self, digest: str, platform: Platform) -> Manifest:
        """Made from manifest.json; the layers' digests are found by reading them, or those that the configuration promises."""
        entry = await asyncio.to_thread(self._entry)
        untrusted_config = await asyncio.to_thread(read_small, self._members, entry.config, CONFIG_LIMIT, self._where)
        promised = diff_ids(untrusted_config, len(entry.layers), platform, self._where)
        self._places[digest] = entry.config
        layers = [await self._layer(name, diff_id) for name, diff_id in zip(entry.layers, promised, strict=True)]
        config = Descriptor(media_type=DOCKER_CONFIG, digest=digest, size=len(untrusted_config))
        manifest = Manifest(config=config, layers=layers)
        check_manifest(manifest, self._where)
        return manifest

    async def load(self, blob: Descriptor, partial: Partial) -> None:
        """Copy the member."""
        with self._members.opened(self._places[blob.digest]) as extent:
            await copy(extent, partial)

    async def _layer(self, name: str, diff_id: str) -> Descriptor:
        with self._members.opened(name) as extent:
            compression = sniff(extent.read(0, 8))
            digest = diff_id if compression == "none" else await asyncio.to_thread(_digest_of, extent)
            self._places[digest] = name
            return Descriptor(media_type=DOCKER_LAYER + _SUFFIXES[compression], digest=digest, size=extent.size)

    def _entry(self) -> _Entry:
        untrusted = read_small(self._members, "manifest.json", MANIFEST_LIMIT, self._where)
        try:
            entries = msgspec.json.decode(untrusted, type=list[_Entry])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise BangerError(f"{self._where}: manifest.json is not understood: {error}") from error
        tags = [name for entry in entries for name in entry.repo_tags or ()]
        if self._name:
            entries = [entry for entry in entries if self._name in map(_canonical, entry.repo_tags or ())]
        if not entries:
            raise NotFound(f"{self._where} holds no such image", hint=f"images there: {', '.join(sorted(tags)) or 'none has a name'}")
        if len(entries) > 1:
            raise BadRequest(f"{self._where} holds several images", hint=f"add one of the names: {', '.join(sorted(tags)) or 'none has one'}")
        return entries[0]


def _canonical(untrusted_name: str) -> str:
    try:
        return archive_name(parse(f"docker://{untrusted_name}"))
    except BadRequest:
        return ""


def _digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def _digest_of(extent: Extent) -> str:
    found, at = hashlib.sha256(), 0
    while block := extent.read(at, _BLOCK):
        found.update(block)
        at += len(block)
    return "sha256:" + found.hexdigest()
