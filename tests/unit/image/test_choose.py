"""From what a user writes to a source."""

from __future__ import annotations

import gzip
import io
import lzma
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from banger.host.zstd import compress
from banger.image.catalog import Catalog, ImageEntry, embedded
from banger.image.oci.blobs import BlobCache
from banger.image.oci.reference import parse
from banger.image.sources.bundle import BundleSource
from banger.image.sources.choose import Chooser, Wish
from banger.image.sources.container import ContainerSource
from banger.image.sources.files import Ext4Source, TarSource
from banger.image.sources.names import name_of_file, name_of_reference
from banger.image.sources.recipe import RecipeSource
from banger.model.errors import BadRequest, BangerError, NotFound
from banger.model.names import check_artifact_name
from banger.model.progress import silent

DIGEST = "sha256:" + "a" * 64
ENTRIES = {
    "pinned": ImageEntry(name="pinned", reference="docker://ghcr.io/acme/dev:1", digest=DIGEST, kernel="k"),
    "packed": ImageEntry(name="packed", bundle="https://acme.example/p.bundle", digest=DIGEST, size_bytes=77),
}


@pytest.fixture
def chooser(tmp_path: Path) -> Chooser:
    known = embedded()
    catalog = Catalog(recipes=known.recipes, kernels=known.kernels, distributions=known.distributions, entries=ENTRIES)
    return Chooser(lambda: catalog, BlobCache(tmp_path / "cache"))


def tar(*names: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(name))
    return out.getvalue()


def ext4() -> bytes:
    return bytes(1024 + 0x38) + b"\x53\xef" + bytes(4000)


@pytest.mark.parametrize(
    ("name", "make", "kind"),
    [
        ("r.tar", lambda: tar("./", "./bin"), TarSource),
        ("r.tar.gz", lambda: gzip.compress(tar("bin/sh")), TarSource),
        ("r.tar.zst", lambda: compress(tar("etc")), TarSource),
        ("r.tar.xz", lambda: lzma.compress(tar("usr/")), TarSource),
        ("r.ext4", ext4, Ext4Source),
        ("d.tar", lambda: tar("a" * 64 + ".tar"), ContainerSource),
        ("d.tar.gz", lambda: gzip.compress(tar("blobs/sha256/x")), ContainerSource),
        ("b.bundle", lambda: compress(tar("manifest.json")[:512] + b"{" + bytes(511)), BundleSource),
    ],
)
async def test_files_are_told_apart_by_their_content(chooser: Chooser, tmp_path: Path, name: str, make: Callable[[], bytes], kind: type) -> None:
    path = tmp_path / name
    path.write_bytes(make())
    source = chooser.choose(Wish(text=str(path), kernel="mine"))
    assert isinstance(source, kind)
    assert (source.name, source.kernel) == (name[0], "mine")
    assert str(path) in source.reference
    assert str(path) in source.origin


async def test_a_file_that_changes_is_another_revision(chooser: Chooser, tmp_path: Path) -> None:
    path = tmp_path / "r.tar"
    path.write_bytes(tar("bin"))
    source = chooser.choose(Wish(text=str(path)))
    before = await source.revision(silent)
    assert before == await source.revision(silent)
    path.write_bytes(tar("bin", "etc"))
    assert await source.revision(silent) != before


@pytest.mark.parametrize("content", [b"", b"text\n" * 1000, gzip.compress(b"text\n" * 1000)])
def test_other_files_are_refused(chooser: Chooser, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(BadRequest, match="neither a tar"):
        chooser.choose(Wish(text=str(tmp_path / "x")))


@pytest.mark.parametrize("content", [gzip.compress(bytes(100))[:-20], b"\x28\xb5\x2f\xfdrubbish", b"\xfd7zXZ\0rubbish" * 10])
def test_damaged_files_are_refused(chooser: Chooser, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(BangerError, match=r"damaged|cut short"):
        chooser.choose(Wish(text=str(tmp_path / "x")))


def test_a_file_that_is_not_there_and_a_directory(chooser: Chooser, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="there is no file"):
        chooser.choose(Wish(text=str(tmp_path / "x")))
    with pytest.raises(NotFound) as caught:
        chooser.choose(Wish(text=str(tmp_path)))
    assert "oci:DIR" in caught.value.hint


def test_the_callers_logins_go_with_the_source(chooser: Chooser) -> None:
    for text in ("ghcr.io/acme/dev:1", "pinned"):
        source = chooser.choose(Wish(text=text, credentials="/home/me/auth.json"))
        assert isinstance(source, ContainerSource) and source.credentials == Path("/home/me/auth.json")


def test_a_damaged_file_is_named(chooser: Chooser, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(gzip.compress(bytes(100))[:-20])
    with pytest.raises(BangerError, match=f"{tmp_path}/x: "):
        chooser.choose(Wish(text=str(tmp_path / "x")))


async def test_names_of_the_catalog(chooser: Chooser) -> None:
    recipe = chooser.choose(Wish(text="debian-trixie", kernel="mine"))
    assert isinstance(recipe, RecipeSource)
    assert (recipe.origin, recipe.reference, recipe.kernel, await recipe.revision(silent)) == ("recipe:debian-trixie", "", "mine", "")
    pinned = chooser.choose(Wish(text="pinned", insecure=frozenset({"h"})))
    assert isinstance(pinned, ContainerSource)
    assert (pinned.name, pinned.reference, pinned.kernel, pinned.insecure) == ("pinned", "docker://ghcr.io/acme/dev:1", "k", frozenset({"h"}))
    assert await pinned.revision(silent) == DIGEST
    packed = chooser.choose(Wish(text="packed"))
    assert isinstance(packed, BundleSource)
    assert (packed.name, packed.url, packed.digest, packed.size_limit) == ("packed", "https://acme.example/p.bundle", DIGEST, 77)


@pytest.mark.parametrize("word", ["alpine:3", "docker://alpine", "acme/dev", "oci:/x:tag", "docker-archive:/x.tar", f"ghcr.io/a/b@{DIGEST}"])
def test_references(chooser: Chooser, word: str) -> None:
    source = chooser.choose(Wish(text=word))
    assert isinstance(source, ContainerSource)
    assert source.reference == str(parse(word))


def test_a_bare_word_is_never_fetched(chooser: Chooser) -> None:
    with pytest.raises(NotFound, match="no image 'redis'"):
        chooser.choose(Wish(text="redis"))


@pytest.mark.parametrize(
    ("text", "digest", "message"),
    [
        ("https://a/b", "", "needs its digest"),
        ("http://example.org/b", DIGEST, "not an https URL"),
        ("https://a/b", "sha256:12", "is not a digest"),
        ("a//b", "", "not an image reference"),
    ],
)
def test_words_that_are_refused(chooser: Chooser, text: str, digest: str, message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        chooser.choose(Wish(text=text, digest=digest))


def test_a_bundle_over_plain_http_only_from_loopback(chooser: Chooser) -> None:
    source = chooser.choose(Wish(text="http://127.0.0.1:80/dir/dev.bundle?x=1", digest=DIGEST))
    assert (source.name, source.reference) == ("dev", "http://127.0.0.1:80/dir/dev.bundle?x=1")


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("alpine", "alpine"),
        ("alpine:3.20", "alpine-3.20"),
        ("acme/dev:1", "acme-dev-1"),
        ("ghcr.io/acme/dev:1.2", "ghcr.io-acme-dev-1.2"),
        ("127.0.0.1:5000/x", "127.0.0.1-5000-x"),
        (f"alpine@{DIGEST}", "alpine-aaaaaaaaaaaa"),
        ("oci:/some/layout:v1", "layout-v1"),
        ("docker-archive:/some/dev.tar", "dev"),
        ("localhost/" + "a" * 200, "localhost-" + "a" * 90),
    ],
)
def test_names_that_follow_from_references(reference: str, name: str) -> None:
    assert check_artifact_name(name_of_reference(parse(reference))) == name


@pytest.mark.parametrize(("path", "name"), [("/a/rootfs.tar.gz", "rootfs"), ("/a/.tar", "tar"), ("/a/Größe (1).ext4", "Gr-e-1"), ("/a/§", "image")])
def test_names_that_follow_from_files(path: str, name: str) -> None:
    assert check_artifact_name(name_of_file(Path(path))) == name
