"""Pulling from a real docker-registry."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from banger.image.oci.blobs import BlobCache
from banger.image.oci.reference import parse
from banger.image.oci.source import fetch, resolve
from banger.image.oci.types import FetchedImage
from banger.model.errors import BangerError, NotFound, Unauthorized
from banger.model.progress import silent
from tests.ociimages import OciImage, make_image, make_index, tar_of, write_layout
from tests.registry import IDENTITY_TOKEN, PASSWORD, USER, Registry, running_registry

IMAGE = make_image(
    [tar_of({"etc/os-release": b"ID=test\n"}), tar_of({"bin/sh": b"\0" * 2_000_000}), tar_of({"etc/os-release": b"ID=other\n"})],
    packing=["+gzip", "", "+gzip"],
    config={"Env": ["PATH=/bin", "A=1"], "Entrypoint": ["/bin/sh"], "Cmd": ["-c", "id"], "User": "1000:1000", "WorkingDir": "/srv"},
)


@pytest.fixture(scope="module", params=["none", "basic", "token"])
def registry(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with running_registry(tmp_path_factory.mktemp(f"registry-{request.param}"), auth=request.param) as registry:
        layout = write_layout(tmp_path_factory.mktemp("layout"), {"1": IMAGE})
        registry.push(f"{layout}:1", "team/app:1")
        yield registry


@pytest.fixture(scope="module")
def open_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with running_registry(tmp_path_factory.mktemp("registry-open")) as registry:
        yield registry


@pytest.fixture(scope="module")
def token_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with running_registry(tmp_path_factory.mktemp("registry-tokens"), auth="token") as registry:
        layout = write_layout(tmp_path_factory.mktemp("layout"), {"1": IMAGE})
        registry.push(f"{layout}:1", "public/app:1")
        registry.push(f"{layout}:1", "private/app:1")
        yield registry


@pytest.fixture
def cache(tmp_path: Path) -> BlobCache:
    return BlobCache(tmp_path / "cache")


def log_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, host: str, entry: dict[str, str]) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"auths": {host: entry}}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))


def password(word: str = PASSWORD) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{USER}:{word}".encode()).decode()}


def check(found: FetchedImage, image: OciImage) -> None:
    assert found.manifest_digest == image.digest
    assert [layer.digest for layer in found.layers] == [layer["digest"] for layer in image.layers]
    assert [layer.path.read_bytes() for layer in found.layers] == [image.blobs[layer["digest"]] for layer in image.layers]
    assert [layer.diff_id for layer in found.layers] == json.loads(image.config)["rootfs"]["diff_ids"]
    assert found.size_bytes == sum(layer["size"] for layer in image.layers)


async def test_logins_of_the_caller(registry: Registry, cache: BlobCache, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The daemon's own environment knows none."""
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "empty"))
    mine = tmp_path / "auth.json"
    mine.write_text(json.dumps({"auths": {registry.host: password()}}))
    reference = parse(f"{registry.host}/team/app:1")
    assert await resolve(reference, cache, credentials=mine) == IMAGE.digest
    check(await fetch(reference, cache, silent, credentials=mine), IMAGE)


async def test_pull(registry: Registry, cache: BlobCache, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    log_in(monkeypatch, tmp_path, registry.host, password())
    told: list[tuple[str, str, float | None]] = []

    def report(stage: str, message: str = "", *, progress: float | None = None, warning: bool = False) -> None:
        told.append((stage, message, progress))

    found = await fetch(parse(f"{registry.host}/team/app:1"), cache, report)
    check(found, IMAGE)
    assert found.reference == f"docker://{registry.host}/team/app:1"
    assert [layer.compression for layer in found.layers] == ["gzip", "none", "gzip"]
    assert found.config.environment == ("PATH=/bin", "A=1")
    assert (found.config.entrypoint, found.config.command) == (("/bin/sh",), ("-c", "id"))
    assert (found.config.user, found.config.working_directory, found.created) == ("1000:1000", "/srv", "2026-11-20T00:00:00Z")
    assert {stage for stage, _, _ in told} == {"pull_image"}
    assert told[-1][2] == 1.0
    assert await resolve(parse(f"{registry.host}/team/app:1"), cache) == IMAGE.digest


async def test_index(open_registry: Registry, cache: BlobCache, tmp_path: Path) -> None:
    arm = make_image([tar_of({"arm": b""})], platform=("linux", "arm64"))
    index = make_index({("linux", "arm64"): arm, ("linux", "amd64"): IMAGE})
    reference = open_registry.push(write_layout(tmp_path / "layout", {"": index}), "multi:1")
    found = await fetch(parse(reference), cache, silent)
    assert found.manifest_digest == index.digest
    assert found.layers[0].digest == IMAGE.layers[0]["digest"]


async def test_image_for_another_machine_is_refused(open_registry: Registry, cache: BlobCache, tmp_path: Path) -> None:
    arm = make_image([tar_of({"arm": b""})], platform=("linux", "arm64"))
    alone = open_registry.push(write_layout(tmp_path / "one", {"": arm}), "arm:1")
    listed = open_registry.push(write_layout(tmp_path / "two", {"": make_index({("linux", "arm64"): arm})}), "arm:2")
    for reference in (alone, listed):
        with pytest.raises(BangerError, match=r"has no image for linux/amd64, only for linux/arm64"):
            await fetch(parse(reference), cache, silent)


async def test_unchanged_tag_is_not_fetched_again(open_registry: Registry, cache: BlobCache, tmp_path: Path) -> None:
    """With the blobs gone from the registry, only the digest of the tag can still come from there."""
    reference = open_registry.push(write_layout(tmp_path / "layout", {"": IMAGE}), "again:1")
    first = await fetch(parse(reference), cache, silent)
    second = await fetch(parse(reference), cache, silent)
    assert second == first
    pinned = f"{reference.removesuffix(':1')}@{first.manifest_digest}"
    open_registry.stop()
    try:
        offline = await fetch(parse(pinned), cache, silent)
        with pytest.raises(BangerError, match="cannot be reached"):
            await fetch(parse(reference), cache, silent)
    finally:
        open_registry.start()
    assert (offline.layers, offline.config) == (first.layers, first.config)


@pytest.mark.parametrize(("name", "message"), [("team/nothing:1", "team/nothing:1 is not there"), ("team/app:none", "team/app:none is not there")])
async def test_missing(registry: Registry, cache: BlobCache, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, message: str) -> None:
    log_in(monkeypatch, tmp_path, registry.host, password())
    with pytest.raises(NotFound, match=message):
        await fetch(parse(f"{registry.host}/{name}"), cache, silent)


async def test_login_is_needed(registry: Registry, cache: BlobCache) -> None:
    if registry.auth == "none":
        assert await resolve(parse(f"{registry.host}/team/app:1"), cache) == IMAGE.digest
        return
    with pytest.raises(Unauthorized, match="does not exist or needs a login") as caught:
        await resolve(parse(f"{registry.host}/team/app:1"), cache)
    assert f"docker login {registry.host}" in caught.value.hint


async def test_wrong_password(registry: Registry, cache: BlobCache, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log_in(monkeypatch, tmp_path, registry.host, password("wrong-word"))
    caplog.set_level("DEBUG")
    if registry.auth == "none":
        assert await resolve(parse(f"{registry.host}/team/app:1"), cache) == IMAGE.digest
    else:
        with pytest.raises(Unauthorized, match=r"does not accept the login in .*config\.json"):
            await resolve(parse(f"{registry.host}/team/app:1"), cache)
    assert "wrong-word" not in caplog.text
    assert password("wrong-word")["auth"] not in caplog.text


async def test_public_repository_behind_a_token_service(token_registry: Registry, cache: BlobCache) -> None:
    check(await fetch(parse(f"{token_registry.host}/public/app:1"), cache, silent), IMAGE)
    with pytest.raises(Unauthorized):
        await fetch(parse(f"{token_registry.host}/private/app:1"), cache, silent)


async def test_one_token_serves_a_whole_pull(token_registry: Registry, cache: BlobCache) -> None:
    assert token_registry.tokens is not None
    token_registry.tokens.requests.clear()
    await fetch(parse(f"{token_registry.host}/public/app:1"), cache, silent)
    assert [(method, asked["scope"], secret) for method, asked, secret in token_registry.tokens.requests] == [("GET", "repository:public/app:pull", "")]


async def test_identity_token(token_registry: Registry, cache: BlobCache, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert token_registry.tokens is not None
    token_registry.tokens.requests.clear()
    log_in(monkeypatch, tmp_path, token_registry.host, {"identitytoken": IDENTITY_TOKEN})
    check(await fetch(parse(f"{token_registry.host}/private/app:1"), cache, silent), IMAGE)
    assert [(method, asked["grant_type"]) for method, asked, _ in token_registry.tokens.requests] == [("POST", "refresh_token")]
