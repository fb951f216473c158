"""Images that lie on this host: OCI layouts, and archives of docker save in all their dialects. skopeo makes some of them."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import subprocess
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from banger.host.zstd import compress
from banger.image.oci.blobs import BlobCache
from banger.image.oci.reference import parse
from banger.image.oci.source import fetch, resolve
from banger.image.oci.types import FetchedImage
from banger.model.errors import BadRequest, BangerError, NotFound
from banger.model.progress import silent
from tests.ociimages import digest_of, make_image, make_index, tar_of, write_layout

TARS = [tar_of({"a": b"1" * 5000}), tar_of({"b": b"2" * 5000})]
IMAGE = make_image(TARS, packing=["+gzip", "+zstd"], config={"Cmd": ["sh"]})
OTHER = make_image([tar_of({"c": b"3"})])
Member = bytes | tuple[bytes, str]


@pytest.fixture
def cache(tmp_path: Path) -> BlobCache:
    return BlobCache(tmp_path / "cache")


async def pull(reference: str, cache: BlobCache) -> FetchedImage:
    return await fetch(parse(reference), cache, silent)


def write_archive(path: Path, members: Mapping[str, Member]) -> str:
    """A tar with these members: a content, or a type of link and its target."""
    with tarfile.open(path, "w") as archive:
        for name, member in members.items():
            info = tarfile.TarInfo(name)
            if isinstance(member, tuple):
                info.type, info.linkname = member
                archive.addfile(info)
            else:
                info.size = len(member)
                archive.addfile(info, io.BytesIO(member))
    return f"docker-archive:{path}"


def saved(changes: Mapping[str, Member] | None = None) -> dict[str, Member]:
    """What an old docker save wrote for IMAGE."""
    entry = {"Config": "config.json", "RepoTags": ["app:1"], "Layers": ["one/layer.tar", "two/layer.tar"]}
    members: dict[str, Member] = {
        "config.json": IMAGE.config,
        "one/layer.tar": TARS[0],
        "two/layer.tar": TARS[1],
        "manifest.json": json.dumps([entry]).encode(),
    }
    return members | dict(changes or {})


def check_saved(found: FetchedImage) -> None:
    assert found.manifest_digest == found.config_digest == digest_of(IMAGE.config)
    assert [layer.path.read_bytes() for layer in found.layers] == TARS
    assert [layer.diff_id for layer in found.layers] == [digest_of(tar) for tar in TARS]
    assert found.config.command == ("sh",)


async def test_layout(cache: BlobCache, tmp_path: Path) -> None:
    layout = write_layout(tmp_path / "layout", {"1": IMAGE, "2": OTHER})
    found = await pull(f"oci:{layout}:1", cache)
    assert found.reference == f"oci:{layout}:1"
    assert found.manifest_digest == IMAGE.digest == await resolve(parse(f"oci:{layout}:1"), cache)
    assert [layer.compression for layer in found.layers] == ["gzip", "zstd"]
    assert (await pull(f"oci:{layout}:2", cache)).manifest_digest == OTHER.digest


async def test_layout_without_tags(cache: BlobCache, tmp_path: Path) -> None:
    alone = write_layout(tmp_path / "alone", {"": IMAGE})
    assert (await pull(f"oci:{alone}", cache)).manifest_digest == IMAGE.digest
    index = make_index({("linux", "arm64"): OTHER, ("linux", "amd64"): IMAGE})
    listed = write_layout(tmp_path / "listed", {"": index})
    assert (await pull(f"oci:{listed}", cache)).layers[0].digest == IMAGE.layers[0]["digest"]
    tagged = write_layout(tmp_path / "tagged", {"1": IMAGE, "2": OTHER})
    with pytest.raises(BadRequest, match="holds several images") as caught:
        await pull(f"oci:{tagged}", cache)
    assert caught.value.hint == "add one of the tags: 1, 2"
    with pytest.raises(NotFound, match="no such tag") as missing:
        await pull(f"oci:{tagged}:3", cache)
    assert missing.value.hint == "tags there: 1, 2"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def change(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b"x")


def make_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("harm", "message"), [(Path.unlink, "cannot be read"), (cut, "bytes, the manifest says"), (change, "is damaged"), (make_pipe, "is not a file")]
)
async def test_damaged_layouts(cache: BlobCache, tmp_path: Path, harm: Callable[[Path], None], message: str) -> None:
    layout = write_layout(tmp_path / "layout", {"": IMAGE})
    harm(layout / "blobs/sha256" / IMAGE.layers[1]["digest"].removeprefix("sha256:"))
    with pytest.raises(BangerError, match=message):
        await pull(f"oci:{layout}", cache)


async def test_damaged_manifest_of_a_layout(cache: BlobCache, tmp_path: Path) -> None:
    layout = write_layout(tmp_path / "layout", {"": IMAGE})
    change(layout / "blobs/sha256" / IMAGE.digest.removeprefix("sha256:"))
    with pytest.raises(BangerError, match="is damaged, it has another digest"):
        await pull(f"oci:{layout}", cache)


async def test_no_layout(cache: BlobCache, tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(NotFound, match="is not an OCI layout"):
            await pull(f"oci:{path}", cache)


async def test_archive_of_skopeo(cache: BlobCache, tmp_path: Path) -> None:
    layout = write_layout(tmp_path / "layout", {"1": make_image(TARS, config={"Cmd": ["sh"]})})
    archive = tmp_path / "image.tar"
    command = ["skopeo", "copy", "--insecure-policy", f"oci:{layout}:1", f"docker-archive:{archive}:app:1"]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True)
    found = await pull(f"docker-archive:{archive}:app:1", cache)
    assert [layer.path.read_bytes() for layer in found.layers] == TARS
    assert (await pull(f"docker-archive:{archive}", cache)).layers == found.layers
    assert await resolve(parse(f"docker-archive:{archive}"), cache) == found.manifest_digest


@pytest.mark.parametrize(
    "members",
    [
        saved(),
        {f"./{name}": member for name, member in saved().items()},
        saved({"two/layer.tar": (tarfile.SYMTYPE, "../three/real.tar"), "three/real.tar": TARS[1]}),
        saved({"two/layer.tar": (tarfile.LNKTYPE, "three/real.tar"), "three/real.tar": TARS[1]}),
        saved({"two/layer.tar": (tarfile.SYMTYPE, "../../../three/real.tar"), "three/real.tar": TARS[1]}),
    ],
    ids=["plain", "dots", "symlink", "hardlink", "symlink beyond the top"],
)
async def test_legacy_archives(cache: BlobCache, tmp_path: Path, members: Mapping[str, Member]) -> None:
    check_saved(await pull(write_archive(tmp_path / "image.tar", members), cache))


async def test_archive_of_docker_25(cache: BlobCache, tmp_path: Path) -> None:
    """An OCI layout with a manifest.json; with containerd's store the layers in it are compressed."""
    members: dict[str, Member] = {f"blobs/sha256/{digest.removeprefix('sha256:')}": blob for digest, blob in IMAGE.blobs.items()}
    blobs = [f"blobs/sha256/{layer['digest'].removeprefix('sha256:')}" for layer in IMAGE.layers]
    config = f"blobs/sha256/{digest_of(IMAGE.config).removeprefix('sha256:')}"
    members["manifest.json"] = json.dumps([{"Config": config, "RepoTags": None, "Layers": blobs, "LayerSources": {}}]).encode()
    found = await pull(write_archive(tmp_path / "image.tar", members), cache)
    assert [(layer.digest, layer.compression) for layer in found.layers] == [
        (layer["digest"], compression) for layer, compression in zip(IMAGE.layers, ("gzip", "zstd"), strict=True)
    ]


async def test_archive_of_a_layout(cache: BlobCache, tmp_path: Path) -> None:
    layout = write_layout(tmp_path / "layout", {"1": IMAGE})
    with tarfile.open(tmp_path / "image.tar", "w") as archive:
        archive.add(layout, ".")
    assert (await pull(f"docker-archive:{tmp_path}/image.tar", cache)).manifest_digest == IMAGE.digest


@pytest.mark.parametrize("pack", [gzip.compress, compress, bz2.compress, lzma.compress])
async def test_compressed_archives(cache: BlobCache, tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    write_archive(tmp_path / "image.tar", saved())
    packed = pack((tmp_path / "image.tar").read_bytes())
    (tmp_path / "image.tar").write_bytes(packed)
    check_saved(await pull(f"docker-archive:{tmp_path}/image.tar", cache))
    (tmp_path / "image.tar").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(BangerError, match="is damaged"):
        await pull(f"docker-archive:{tmp_path}/image.tar", cache)


async def test_archive_with_several_images(cache: BlobCache, tmp_path: Path) -> None:
    entries = [
        {"Config": "config.json", "RepoTags": ["app:1", "app:latest"], "Layers": ["one/layer.tar", "two/layer.tar"]},
        {"Config": "other.json", "RepoTags": ["ghcr.io/acme/other:2"], "Layers": ["other.tar"]},
    ]
    reference = write_archive(
        tmp_path / "image.tar", saved({"manifest.json": json.dumps(entries).encode(), "other.json": OTHER.config, "other.tar": OTHER.tars[0]})
    )
    check_saved(await pull(f"{reference}:app", cache))
    assert (await pull(f"{reference}:ghcr.io/acme/other:2", cache)).config_digest == digest_of(OTHER.config)
    with pytest.raises(BadRequest, match="holds several images") as caught:
        await pull(reference, cache)
    assert caught.value.hint == "add one of the names: app:1, app:latest, ghcr.io/acme/other:2"
    with pytest.raises(NotFound, match="holds no such image"):
        await pull(f"{reference}:app:3", cache)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (saved({"two/layer.tar": TARS[0]}), "is damaged: it has the digest"),
        (saved({"two/layer.tar": (tarfile.SYMTYPE, "/etc/passwd")}), "has no file 'two/layer.tar'"),
        (saved({"two/layer.tar": (tarfile.SYMTYPE, "../two/layer.tar")}), "has no file 'two/layer.tar'"),
        (saved({"two/layer.tar": (tarfile.FIFOTYPE, "")}), "has no file 'two/layer.tar'"),
        (saved({"config.json": b"{}"}), "the configuration is not understood"),
        (saved({"config.json": b" " * (8 * 1024 * 1024 + 1)}), "config.json is larger than"),
        (saved({"manifest.json": b"[]"}), "holds no such image"),
        (saved({"manifest.json": b"[{}]"}), "manifest.json is not understood"),
        (saved({"manifest.json": json.dumps([{"Config": "../../config", "Layers": []}]).encode()}), "has no file '../../config'"),
        ({"hello": b"world"}, "is not an OCI layout"),
    ],
)
async def test_wrong_archives(cache: BlobCache, tmp_path: Path, members: Mapping[str, Member], message: str) -> None:
    with pytest.raises(BangerError, match=message):
        await pull(write_archive(tmp_path / "image.tar", members), cache)
    layers = [digest_of(tar).removeprefix("sha256:") for tar in TARS]
    assert not (cache.root / "blobs/sha256" / layers[1]).exists()


def long_name_header(size: int) -> bytes:
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, size
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no tar at all",
        b"\0" * 10240,
        b"x" * 10240,
        long_name_header(1 << 30) + b"a" * 4_000_000,
        long_name_header(10) * 5000,
        tar_of({"a": b"1" * 5000})[:1000],
    ],
    ids=["empty", "short", "zeros", "other", "long name", "names of names", "cut"],
)
async def test_what_is_no_archive(cache: BlobCache, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "image.tar").write_bytes(content)
    with pytest.raises(BangerError, match=r"is not a tar archive|is not an OCI layout"):
        await pull(f"docker-archive:{tmp_path}/image.tar", cache)


async def test_archive_with_too_many_members(cache: BlobCache, tmp_path: Path) -> None:
    header = tarfile.TarInfo("x").tobuf()
    (tmp_path / "image.tar").write_bytes(header * 20_001)
    with pytest.raises(BangerError, match="more than 20000 members"):
        await pull(f"docker-archive:{tmp_path}/image.tar", cache)


@pytest.mark.parametrize("reference", ["oci:layout", "docker-archive:image.tar"])
async def test_relative_paths_are_the_callers(cache: BlobCache, reference: str) -> None:
    with pytest.raises(BadRequest, match="the path is not absolute"):
        await pull(reference, cache)


async def test_archive_that_is_not_there(cache: BlobCache, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "missing", tmp_path, tmp_path / "pipe"):
        with pytest.raises(NotFound):
            await pull(f"docker-archive:{path}", cache)
