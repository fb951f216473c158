"""Manifests, indexes and configurations."""

from __future__ import annotations

import json
from typing import Any

import pytest

from banger.image.oci.manifest import LINUX_AMD64, Index, Manifest, choose, decode_config, decode_document
from banger.image.oci.selection import select_manifest
from banger.model.errors import BangerError
from tests.ociimages import OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST, descriptor, make_image, make_index, tar_of

IMAGE = make_image([tar_of({"a": b"1"}), tar_of({"b": b"2"})], packing=["+gzip", "+zstd"])


def manifest(**changes: Any) -> bytes:
    return json.dumps(json.loads(IMAGE.manifest) | changes).encode()


def index(*entries: tuple[str, str, str], **more: Any) -> Index:
    named = [descriptor(OCI_MANIFEST, f"{entry}".encode(), platform=dict(zip(("os", "architecture", "variant"), entry, strict=True))) for entry in entries]
    found = decode_document(json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": named, **more}).encode(), "x")
    assert isinstance(found, Index)
    return found


def config(**changes: Any) -> bytes:
    return json.dumps(json.loads(IMAGE.config) | changes).encode()


def layers(*types: str) -> list[dict[str, Any]]:
    return [descriptor(kind, b"x") for kind in types]


@pytest.mark.parametrize(
    "media_type",
    [
        OCI_LAYER, OCI_LAYER + "+gzip", OCI_LAYER + "+zstd",
        "application/vnd.docker.image.rootfs.diff.tar", "application/vnd.docker.image.rootfs.diff.tar.gzip",
        "application/vnd.docker.image.rootfs.diff.tar.zstd",
    ],
)  # fmt: skip
def test_layer_types(media_type: str) -> None:
    assert isinstance(decode_document(manifest(layers=layers(media_type)), "x"), Manifest)


@pytest.mark.parametrize(
    ("untrusted", "message"),
    [
        (manifest(schemaVersion=1, fsLayers=[]), "schema 1"),
        (manifest(manifests=[]), "an image and an index at once"),
        (b'{"schemaVersion": 2}', "neither layers nor manifests"),
        (manifest(layers=[]), "x has no layers"),
        (b"\n <html>", "a web page came"),
        (b"[]", "Expected `object`"),
        (b"", "is not understood"),
        (b"\xff", "is not understood"),
        (b"[" * 100_000, "is not understood"),
        (b'{"manifests": ' + b"[" * 100_000, "is not understood"),
        (manifest(config=descriptor("application/vnd.cncf.helm.config.v1+json", b"{}")), r"is not a container image \(its type is 'application/vnd.cncf.helm"),
        (manifest(config=descriptor("application/vnd.oci.empty.v1+json", b"{}")), "is not a container image"),
        (manifest(config={"mediaType": OCI_CONFIG, "digest": IMAGE.digest, "size": 9 * 1024 * 1024}), "configuration is larger"),
        (manifest(layers=layers(*[OCI_LAYER] * 501)), "is not understood"),
        (manifest(layers=layers("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip")), "its owner does not let registries hand out"),
        (manifest(layers=layers("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip")), "its owner does not let registries hand out"),
        (manifest(layers=layers("application/vnd.oci.image.layer.v1.tar+gzip+encrypted")), "unknown type"),
        (manifest(layers=[{"mediaType": OCI_LAYER, "digest": "sha256:../../etc/passwd", "size": 1}]), r"\$\.layers\[0\]\.digest"),
        (manifest(layers=[{"mediaType": OCI_LAYER, "digest": IMAGE.digest + "\n", "size": 1}]), r"\$\.layers\[0\]\.digest"),
        (manifest(layers=[{"mediaType": OCI_LAYER, "digest": IMAGE.digest, "size": -1}]), r"\$\.layers\[0\]\.size"),
        (manifest(layers=[{"mediaType": OCI_LAYER, "digest": IMAGE.digest, "size": 2**62}]), r"\$\.layers\[0\]\.size"),
        (manifest(layers=[{"mediaType": OCI_LAYER, "digest": IMAGE.digest, "size": 60 * 1024**3}] * 3), "is larger than 128 GiB"),
        (b" " * (4 * 1024 * 1024) + b"{}", "is larger than"),
    ],
)
def test_what_is_no_manifest(untrusted: bytes, message: str) -> None:
    with pytest.raises(BangerError, match=message):
        decode_document(untrusted, "x")


def test_platform() -> None:
    found = index(("unknown", "unknown", ""), ("linux", "arm64", "v8"), ("linux", "amd64", "v3"), ("linux", "amd64", ""), ("windows", "amd64", ""))
    chosen = choose(found, LINUX_AMD64, "x")
    assert chosen.platform is not None
    assert str(chosen.platform) == "linux/amd64"


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([("unknown", "unknown", ""), ("linux", "arm", "v7"), ("linux", "arm64", "")], r"x has no image for linux/amd64, only for linux/arm/v7, linux/arm64\Z"),
        ([], r"x has no image for linux/amd64\Z"),
    ],
)
def test_platforms_there_are(entries: list[tuple[str, str, str]], message: str) -> None:
    with pytest.raises(BangerError, match=message):
        choose(index(*entries), LINUX_AMD64, "x")


def test_single_entry_without_a_platform_is_tried() -> None:
    found = decode_document(json.dumps({"schemaVersion": 2, "manifests": [descriptor(OCI_MANIFEST, b"x")]}).encode(), "x")
    assert isinstance(found, Index)
    assert choose(found, LINUX_AMD64, "x") == found.manifests[0]


async def test_index_in_an_index() -> None:
    inner = make_index({("linux", "amd64"): IMAGE})
    outer = make_index({("linux", "amd64"): inner})

    async def read(digest: str) -> bytes:
        return outer.blobs[digest]

    assert (await select_manifest(read, outer.digest, LINUX_AMD64, "x")).config.digest == json.loads(IMAGE.manifest)["config"]["digest"]


async def test_indexes_without_end() -> None:
    top = make_index({("linux", "amd64"): IMAGE})
    for _ in range(5):
        top = make_index({("linux", "amd64"): top})

    async def read(digest: str) -> bytes:
        return top.blobs[digest]

    with pytest.raises(BangerError, match="lie inside each other"):
        await select_manifest(read, top.digest, LINUX_AMD64, "x")


def test_configuration() -> None:
    wanted: dict[str, Any] = {
        "Env": ["PATH=/bin", "A=1", "A=2=3", "NOTHING", "=x"],
        "Entrypoint": None,
        "Cmd": ["sh"],
        "User": "app:staff",
        "WorkingDir": "srv",
        "ExposedPorts": {"80/tcp": {}, "53/udp": {}},
        "StopSignal": "SIGINT",
        "Labels": {"b": "2", "a": "1"},
        "Healthcheck": {"Test": ["NONE"]},
    }
    image = decode_config(config(config=wanted), 2, LINUX_AMD64, "x").image
    assert image.environment == ("PATH=/bin", "A=2=3")
    assert (image.entrypoint, image.command, image.user, image.working_directory) == ((), ("sh",), "app:staff", "/srv")
    assert (image.exposed_ports, image.stop_signal, image.labels) == (("53/udp", "80/tcp"), "SIGINT", (("a", "1"), ("b", "2")))


def test_empty_configuration() -> None:
    found = decode_config(config(config=None, created=None), 2, LINUX_AMD64, "x")
    assert (found.image.environment, found.image.command, found.created) == ((), (), "")
    assert found.diff_ids == tuple(json.loads(IMAGE.config)["rootfs"]["diff_ids"])


@pytest.mark.parametrize(
    ("untrusted", "message"),
    [
        (config(architecture="arm64"), "no image for linux/amd64, only for linux/arm64"),
        (config(os="windows"), "only for windows/amd64"),
        (config(architecture=""), r"only for linux/\?"),
        (config(rootfs={"diff_ids": []}), "has 2 layers, the configuration 0"),
        (config(rootfs={"diff_ids": ["sha256:1", "2"]}), r"diff_ids\[0\]"),
        (config(config={"Env": ["A=\0"]}), "zero byte"),
        (config(config={"Cmd": "sh -c"}), r"\$\.config\.Cmd"),
        (b"{}", "is not understood"),
    ],
)
def test_wrong_configurations(untrusted: bytes, message: str) -> None:
    with pytest.raises(BangerError, match=message):
        decode_config(untrusted, 2, LINUX_AMD64, "x")
