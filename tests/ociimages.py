"""Container images made by hand: OCI layouts and docker archives with any content, right or wrong."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from banger.host.zstd import compress

OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
_PACKERS: dict[str, Callable[[bytes], bytes]] = {"": bytes, "+gzip": lambda tar: gzip.compress(tar, 1, mtime=0), "+zstd": compress}


def digest_of(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def tar_of(files: Mapping[str, bytes]) -> bytes:
    """A tar archive with these files."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


@dataclass
class OciImage:
    """One image; its blobs by digest."""

    manifest: bytes
    config: bytes
    tars: list[bytes]
    blobs: dict[str, bytes] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        return digest_of(self.manifest)

    @property
    def layers(self) -> list[dict[str, Any]]:
        layers: list[dict[str, Any]] = json.loads(self.manifest)["layers"]
        return layers


def descriptor(media_type: str, content: bytes, **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest_of(content), "size": len(content), **more}


def make_image(
    tars: Sequence[bytes], *, packing: Sequence[str] | str = "+gzip", config: Mapping[str, Any] | None = None, platform: tuple[str, str] = ("linux", "amd64")
) -> OciImage:
    """An OCI image of these layers; ``packing`` is "", "+gzip" or "+zstd", for all or for each."""
    kinds = [packing] * len(tars) if isinstance(packing, str) else list(packing)
    packed = [_PACKERS[kind](tar) for kind, tar in zip(kinds, tars, strict=True)]
    configuration = {
        "created": "2026-11-20T00:00:00Z",
        "os": platform[0],
        "architecture": platform[1],
        "config": dict(config or {}),
        "rootfs": {"type": "layers", "diff_ids": [digest_of(tar) for tar in tars]},
    }
    raw = json.dumps(configuration).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(OCI_CONFIG, raw),
        "layers": [descriptor(OCI_LAYER + kind, content) for kind, content in zip(kinds, packed, strict=True)],
    }
    document = json.dumps(manifest).encode()
    return OciImage(document, raw, list(tars), {digest_of(blob): blob for blob in (document, raw, *packed)})


def make_index(images: Mapping[tuple[str, str], OciImage], *, extra: Sequence[Mapping[str, Any]] = ()) -> OciImage:
    """An index of images by platform; ``extra`` entries follow as they are."""
    entries = [descriptor(OCI_MANIFEST, image.manifest, platform={"os": os, "architecture": machine}) for (os, machine), image in images.items()]
    document = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [*entries, *extra]}).encode()
    blobs = {digest: blob for image in images.values() for digest, blob in image.blobs.items()}
    return OciImage(document, b"", [], blobs | {digest_of(document): document})


def write_layout(directory: Path, images: Mapping[str, OciImage]) -> Path:
    """An OCI layout with these images by tag; "" = without one."""
    blobs = directory / "blobs" / "sha256"
    blobs.mkdir(parents=True, exist_ok=True)
    entries = []
    for tag, image in images.items():
        for digest, blob in image.blobs.items():
            (blobs / digest.removeprefix("sha256:")).write_bytes(blob)
        named = {"annotations": {"org.opencontainers.image.ref.name": tag}} if tag else {}
        entries.append(descriptor(json.loads(image.manifest)["mediaType"], image.manifest, **named))
    (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (directory / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": entries}))
    return directory
