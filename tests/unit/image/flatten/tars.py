"""Archives for the tests, member by member."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from banger.image.flatten.decompress import sniff
from banger.image.flatten.limits import Limits
from banger.image.flatten.pipeline import Flattened, flatten
from banger.image.oci.types import Compression, Layer
from banger.model.progress import silent
from tests.ociimages import OciImage

MTIME = 1_700_000_000.25


@dataclass(frozen=True, kw_only=True)
class Member:
    """One entry; the defaults are a regular file of root's."""

    name: str
    content: bytes = b""
    type: bytes = tarfile.REGTYPE
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime: float = MTIME
    link: str = ""
    device: tuple[int, int] = (0, 0)
    pax: dict[str, str] = field(default_factory=dict)


def directory(name: str, *, mode: int = 0o755, pax: dict[str, str] | None = None) -> Member:
    return Member(name=name, type=tarfile.DIRTYPE, mode=mode, pax=pax or {})


def symlink(name: str, target: str) -> Member:
    return Member(name=name, type=tarfile.SYMTYPE, mode=0o777, link=target)


def hardlink(name: str, target: str) -> Member:
    return Member(name=name, type=tarfile.LNKTYPE, link=target)


def file(name: str, content: str = "", mode: int = 0o644) -> Member:
    return Member(name=name, content=content.encode(), mode=mode)


def pack(members: Iterable[Member], *, format: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format, encoding="utf-8", errors="surrogateescape") as archive:
        for member in members:
            info = tarfile.TarInfo(member.name)
            info.type, info.mode, info.uid, info.gid, info.mtime = member.type, member.mode, member.uid, member.gid, member.mtime
            if format != tarfile.PAX_FORMAT:
                info.mtime = int(member.mtime)
            info.linkname, info.pax_headers = member.link, dict(member.pax)
            info.devmajor, info.devminor = member.device
            info.size = len(member.content)
            archive.addfile(info, io.BytesIO(member.content))
    return out.getvalue()


def layers_of(image: OciImage, place: Path) -> list[Layer]:
    """The image's layers as what fetching it gives."""
    place.mkdir(exist_ok=True)
    found = []
    for tar, layer in zip(image.tars, image.layers, strict=True):
        path = place / layer["digest"].removeprefix("sha256:")
        path.write_bytes(image.blobs[layer["digest"]])
        found.append(layer_of(path, tar))
    return found


def layer_of(path: Path, tar: bytes) -> Layer:
    blob = path.read_bytes()
    compression: dict[str, Compression] = {"none": "none", "gzip": "gzip", "zstd": "zstd"}
    return Layer(
        path=path,
        media_type="application/vnd.oci.image.layer.v1.tar",
        compression=compression[sniff(blob[:8])],
        digest="sha256:" + hashlib.sha256(blob).hexdigest(),
        diff_id="sha256:" + hashlib.sha256(tar).hexdigest(),
        size_bytes=len(blob),
    )


async def flatten_tars(place: Path, tars: Sequence[bytes], *, limits: Limits | None = None) -> Flattened:
    """The layers in these archives as ``place/rootfs.ext4``."""
    layers = []
    for number, tar in enumerate(tars):
        path = place / f"blob-{number}"
        path.write_bytes(tar)
        layers.append(layer_of(path, tar))
    staging = place / "staging"
    staging.mkdir(exist_ok=True)
    return await flatten(layers, place / "rootfs.ext4", staging, limits=limits or Limits(), report=silent)
