"""Manifests, indexes and configurations of container images, as strangers wrote them.

Sources of the rules: OCI image specification 1.1 (manifest.md, image-index.md, config.md), Docker image manifest version 2, schema 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final, TypeVar

import msgspec

from ...model.errors import BangerError
from ...model.records import ImageConfig

MANIFEST_LIMIT: Final = 4 * 1024 * 1024
"""Bytes; what the distribution specification asks registries to accept at most."""
CONFIG_LIMIT: Final = 8 * 1024 * 1024
_LAYER_LIMIT: Final = 500
_ENTRY_LIMIT: Final = 1000
_BLOB_LIMIT: Final = 64 * 1024**3
_IMAGE_LIMIT: Final = 128 * 1024**3

OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
ACCEPTED: Final = (OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST)
DOCKER_CONFIG: Final = "application/vnd.docker.container.image.v1+json"
_CONFIGS: Final = frozenset({"application/vnd.oci.image.config.v1+json", DOCKER_CONFIG})
DOCKER_LAYER: Final = "application/vnd.docker.image.rootfs.diff.tar"
_LAYERS: Final = frozenset({f"application/vnd.oci.image.layer.v1.tar{suffix}" for suffix in ("", "+gzip", "+zstd")}) | frozenset(
    {f"{DOCKER_LAYER}{suffix}" for suffix in ("", ".gzip", ".zstd")}
)
_FOREIGN: Final = ("application/vnd.docker.image.rootfs.foreign.", "application/vnd.oci.image.layer.nondistributable.")

Digest = Annotated[str, msgspec.Meta(pattern="^sha256:[0-9a-f]{64}\\Z")]
_Word = Annotated[str, msgspec.Meta(max_length=255)]
_Size = Annotated[int, msgspec.Meta(ge=0, le=_BLOB_LIMIT)]


@dataclass(frozen=True, slots=True)
class Platform:
    """What an image runs on, in Go's words."""

    os: str
    architecture: str

    def __str__(self) -> str:
        return f"{self.os}/{self.architecture}"


LINUX_AMD64: Final = Platform("linux", "amd64")


class EntryPlatform(msgspec.Struct, frozen=True):
    """The platform of an entry of an index."""

    os: _Word = ""
    architecture: _Word = ""
    variant: _Word = ""

    def __str__(self) -> str:
        return f"{self.os}/{self.architecture}" + (f"/{self.variant}" if self.variant else "")


class Descriptor(msgspec.Struct, frozen=True, rename="camel"):
    """Type, digest and size of something in a registry."""

    media_type: _Word
    digest: Digest
    size: _Size
    platform: EntryPlatform | None = None
    annotations: dict[str, str] | None = None


class Manifest(msgspec.Struct, frozen=True):
    """One image for one platform."""

    config: Descriptor
    layers: Annotated[list[Descriptor], msgspec.Meta(max_length=_LAYER_LIMIT)]


class Index(msgspec.Struct, frozen=True):
    """Images for several platforms under one name."""

    manifests: Annotated[list[Descriptor], msgspec.Meta(max_length=_ENTRY_LIMIT)]


_ABSENT: Final = msgspec.Raw(b"null")


class _Outline(msgspec.Struct, frozen=True, rename="camel"):
    """As much of a document as shows which kind it is."""

    schema_version: int = 0
    media_type: str = ""
    manifests: msgspec.Raw = _ABSENT
    layers: msgspec.Raw = _ABSENT
    fs_layers: msgspec.Raw = _ABSENT


class _RunConfig(msgspec.Struct, frozen=True, rename="pascal"):
    user: str | None = None
    env: list[str] | None = None
    entrypoint: list[str] | None = None
    cmd: list[str] | None = None
    working_dir: str | None = None
    exposed_ports: dict[str, msgspec.Raw] | None = None
    stop_signal: str | None = None
    labels: dict[str, str] | None = None


class _RootFS(msgspec.Struct, frozen=True):
    diff_ids: Annotated[list[Digest], msgspec.Meta(max_length=_LAYER_LIMIT)]


class _Config(msgspec.Struct, frozen=True):
    rootfs: _RootFS
    os: _Word = ""
    architecture: _Word = ""
    created: Annotated[str, msgspec.Meta(max_length=64)] | None = None
    config: _RunConfig | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """What is taken from an image's configuration."""

    image: ImageConfig
    diff_ids: tuple[str, ...]
    created: str


def decode_document(untrusted: bytes, where: str) -> Manifest | Index:
    """The manifest or index in these bytes; ``where`` is the reference, for messages. Raises BangerError."""
    if len(untrusted) > MANIFEST_LIMIT:
        raise BangerError(f"{where}: the manifest is larger than {MANIFEST_LIMIT} bytes")
    if untrusted.lstrip()[:1] == b"<":
        raise web_page(where)
    outline = _decode(_Outline, untrusted, f"{where}: the manifest")
    if outline.schema_version == 1 or outline.fs_layers != _ABSENT:
        raise BangerError(
            f"{where} is in the manifest format of 2014 (schema 1), which has no digests of what is unpacked",
            hint="push it again with a current docker, podman or skopeo",
        )
    if _ABSENT not in (outline.manifests, outline.layers):
        raise BangerError(f"{where}: the manifest claims to be an image and an index at once (CVE-2021-41190)")
    if outline.manifests != _ABSENT:
        return _decode(Index, untrusted, f"{where}: the index")
    if outline.layers == _ABSENT:
        raise BangerError(f"{where} is not a container image: it has neither layers nor manifests{_of_type(outline.media_type)}")
    manifest = _decode(Manifest, untrusted, f"{where}: the manifest")
    check_manifest(manifest, where)
    return manifest


def choose(index: Index, platform: Platform, where: str) -> Descriptor:
    """The entry for this platform: the plainest variant of it (amd64 before amd64/v3). Raises BangerError that names the platforms there are."""
    fitting = [e for e in index.manifests if e.platform and (e.platform.os, e.platform.architecture) == (platform.os, platform.architecture)]
    if fitting:
        return min(fitting, key=lambda entry: entry.platform.variant if entry.platform else "")
    nameless = [entry for entry in index.manifests if entry.platform is None]
    if len(nameless) == 1 == len(index.manifests):
        return nameless[0]  # the configuration says what it is for
    there = {str(entry.platform) for entry in index.manifests if entry.platform and entry.platform.os != "unknown"}
    raise wrong_platform(where, platform, there)


def decode_config(untrusted: bytes, layers: int, platform: Platform, where: str) -> Configuration:
    """The configuration of an image with so many ``layers``. Raises BangerError when it is none, or is for another platform."""
    raw = _checked_config(untrusted, layers, platform, where)
    return Configuration(image=_image_config(raw.config or _RunConfig(), where), diff_ids=tuple(raw.rootfs.diff_ids), created=raw.created or "")


def diff_ids(untrusted: bytes, layers: int, platform: Platform, where: str) -> tuple[str, ...]:
    """Of a configuration, the digests of its layers' uncompressed tars. Raises as ``decode_config`` does."""
    return tuple(_checked_config(untrusted, layers, platform, where).rootfs.diff_ids)


def _checked_config(untrusted: bytes, layers: int, platform: Platform, where: str) -> _Config:
    raw = _decode(_Config, untrusted, f"{where}: the configuration")
    if (raw.os, raw.architecture) != (platform.os, platform.architecture):
        raise wrong_platform(where, platform, {f"{raw.os or '?'}/{raw.architecture or '?'}"})
    if len(raw.rootfs.diff_ids) != layers:
        raise BangerError(f"{where}: the manifest has {layers} layers, the configuration {len(raw.rootfs.diff_ids)}")
    return raw


def web_page(where: str) -> BangerError:
    """The error for HTML where an image should be."""
    return BangerError(f"{where}: a web page came instead of an image", hint="is the host a registry? a proxy or a login page of the network may be in between")


def wrong_platform(where: str, wanted: Platform, there: set[str]) -> BangerError:
    """The error for an image that runs elsewhere."""
    return BangerError(f"{where} has no image for {wanted}" + (f", only for {', '.join(sorted(there))}" if there else ""))


def check_manifest(manifest: Manifest, where: str) -> None:
    """Raises BangerError when it is of something else than a container image, or of one that nobody can or should unpack."""
    kind = manifest.config.media_type
    if kind not in _CONFIGS:
        raise BangerError(f"{where} is not a container image{_of_type(kind)}", hint="registries hold charts, signatures and other things too")
    if manifest.config.size > CONFIG_LIMIT:
        raise BangerError(f"{where}: the configuration is larger than {CONFIG_LIMIT} bytes")
    if not manifest.layers:
        raise BangerError(f"{where} has no layers", hint="there is nothing in the image that a machine could boot from")
    for layer in manifest.layers:
        if layer.media_type.startswith(_FOREIGN):
            raise BangerError(f"{where} has a layer that its owner does not let registries hand out ({layer.media_type})", hint="Windows images are like that")
        if layer.media_type not in _LAYERS:
            raise BangerError(f"{where} has a layer of the unknown type {layer.media_type!r}")
    if sum(layer.size for layer in manifest.layers) > _IMAGE_LIMIT:
        raise BangerError(f"{where} is larger than {_IMAGE_LIMIT // 1024**3} GiB")


def _image_config(raw: _RunConfig, where: str) -> ImageConfig:
    environment = {name: value for name, equals, value in (entry.partition("=") for entry in raw.env or ()) if name and equals}
    directory = raw.working_dir or ""
    config = ImageConfig(
        environment=tuple(f"{name}={value}" for name, value in environment.items()),
        working_directory=directory if directory.startswith("/") or not directory else f"/{directory}",
        user=raw.user or "",
        entrypoint=tuple(raw.entrypoint or ()),
        command=tuple(raw.cmd or ()),
        exposed_ports=tuple(sorted(raw.exposed_ports or ())),
        stop_signal=raw.stop_signal or "",
        labels=tuple(sorted((raw.labels or {}).items())),
    )
    words = (*config.environment, config.working_directory, config.user, *config.entrypoint, *config.command)
    if any("\0" in word for word in words):
        raise BangerError(f"{where}: the configuration has a zero byte in an argument, a variable or a name")
    return config


_Document = TypeVar("_Document", bound=msgspec.Struct)


def _decode(kind: type[_Document], untrusted: bytes, what: str) -> _Document:
    try:
        return msgspec.json.decode(untrusted, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BangerError(f"{what} is not understood: {error}") from error


def _of_type(media_type: str) -> str:
    return f" (its type is {media_type!r})" if media_type else ""
