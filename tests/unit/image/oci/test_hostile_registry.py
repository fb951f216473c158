"""What registries, and what lies between them and us, do wrong: a clear error and nothing wrong in the cache, or simply the image."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from banger.image.oci.blobs import BlobCache
from banger.image.oci.http import Http
from banger.image.oci.patience import Patience
from banger.image.oci.reference import parse
from banger.image.oci.source import fetch, resolve
from banger.image.oci.types import FetchedImage
from banger.model.errors import BangerError, NotFound, Unauthorized
from banger.model.progress import silent
from tests.ociimages import digest_of, make_image, tar_of

from .hostile import HostileRegistry, Reply, Request, Waits, hostile

BIG = bytes(range(256)) * 12_000
IMAGE = make_image([tar_of({"big": BIG})], packing="")
LAYER = IMAGE.layers[0]["digest"]
BLOB = IMAGE.blobs[LAYER]


@pytest.fixture
def cache(tmp_path: Path) -> BlobCache:
    return BlobCache(tmp_path / "cache")


def blobs_in(cache: BlobCache) -> set[str]:
    return {f"sha256:{path.name}" for path in (cache.root / "blobs/sha256").glob("*")}


def partials_in(cache: BlobCache) -> list[Path]:
    return list((cache.root / "partial").glob("*"))


async def pull(registry: HostileRegistry, cache: BlobCache, waits: Waits | None = None) -> FetchedImage:
    return await fetch(parse(f"{registry.host}/app:1"), cache, silent, patience=(waits or Waits()).patience)


def first_time(reply: Callable[[Request], Reply]) -> Callable[[Request], Reply | None]:
    """``reply`` for the first request of the layer only."""
    seen: list[Request] = []

    def answer(request: Request) -> Reply | None:
        if request.name != LAYER:
            return None
        seen.append(request)
        return reply(request) if len(seen) == 1 else None

    return answer


def for_blob(reply: Reply) -> Callable[[Request], Reply | None]:
    return lambda request: reply if request.name == LAYER else None


def for_manifest(reply: Reply) -> Callable[[Request], Reply | None]:
    return lambda request: reply if "/manifests/" in request.path else None


async def test_dropped_connection_is_resumed(cache: BlobCache) -> None:
    async with hostile(IMAGE, first_time(lambda _: Reply(body=BLOB, sent=len(BLOB) // 2))) as registry:
        found = await pull(registry, cache)
        assert found.layers[0].path.read_bytes() == BLOB
        first, second = registry.blob_requests(LAYER)
    assert "range" not in first.headers
    assert second.headers["range"] == f"bytes={len(BLOB) // 2}-"


async def test_stalled_connection_is_resumed(cache: BlobCache) -> None:
    async with hostile(IMAGE, first_time(lambda _: Reply(body=BLOB, sent=len(BLOB) // 2, stall=True))) as registry:
        found = await pull(registry, cache, Waits(stall=0.3))
        assert found.layers[0].path.read_bytes() == BLOB
        assert registry.blob_requests(LAYER)[1].headers["range"] == f"bytes={len(BLOB) // 2}-"


async def test_server_that_only_stalls(cache: BlobCache) -> None:
    async with hostile(IMAGE, for_blob(Reply(body=BLOB, sent=10, stall=True))) as registry:
        with pytest.raises(BangerError, match=r"has sent nothing for 0\.2 s"):
            await pull(registry, cache, Waits(stall=0.2, attempts=2))


@pytest.mark.parametrize(
    "second",
    [
        Reply(200, BLOB),
        Reply(206, BLOB[1:], {"Content-Range": f"bytes 1-{len(BLOB) - 1}/{len(BLOB)}"}),
        Reply(206, BLOB[5:], {"Content-Range": "nonsense"}),
        Reply(206, BLOB[5:]),
        Reply(416),
    ],
    ids=["whole", "other range", "nonsense", "no range", "refused"],
)
async def test_ranges_are_not_believed(cache: BlobCache, second: Reply) -> None:
    asked: list[Request] = []

    def answer(request: Request) -> Reply | None:
        if request.name != LAYER:
            return None
        asked.append(request)
        return {1: Reply(body=BLOB, sent=len(BLOB) // 2), 2: second}.get(len(asked))

    async with hostile(IMAGE, answer) as registry:
        found = await pull(registry, cache)
    assert found.layers[0].path.read_bytes() == BLOB
    assert "range" in asked[1].headers


async def test_wrong_beginning_of_an_earlier_run_is_thrown_away(cache: BlobCache) -> None:
    (cache.root / "partial").mkdir(parents=True)
    (cache.root / "partial" / LAYER.removeprefix("sha256:")).write_bytes(b"x" * 1000)
    async with hostile(IMAGE) as registry:
        found = await pull(registry, cache)
        assert [request.headers.get("range") for request in registry.blob_requests(LAYER)] == ["bytes=1000-", None]
    assert found.layers[0].path.read_bytes() == BLOB


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (Reply(body=b"x" * len(BLOB)), "is damaged: it has the digest"),
        (Reply(body=BLOB, length=len(BLOB) + 5), "the manifest says"),
        (Reply(body=BLOB[:-1]), "the manifest says"),
        (Reply(body=BLOB + b"more", length=-1), "is longer than"),
        (Reply(body=BLOB[:-1], length=-1), "ended sha256:"),
        (Reply(body=b"<html>log in</html>", headers={"Content-Type": "text/html"}), "a web page came instead of an image"),
        (Reply(404), "is not whole: .* does not have sha256:"),
    ],
    ids=["other bytes", "too long said", "too short", "too long", "ends early", "web page", "missing"],
)
async def test_wrong_blobs_never_get_into_the_cache(cache: BlobCache, reply: Reply, message: str) -> None:
    async with hostile(IMAGE, for_blob(reply)) as registry:
        with pytest.raises(BangerError, match=message):
            await pull(registry, cache)
        assert LAYER not in blobs_in(cache)
        registry.answer = lambda _: None
        assert (await pull(registry, cache)).layers[0].path.read_bytes() == BLOB
    assert partials_in(cache) == []


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (Reply(body=b"<!DOCTYPE html><title>Hotel</title>", headers={"Content-Type": "text/html"}), "a web page came instead of an image"),
        (Reply(body=b"<!DOCTYPE html><title>Hotel</title>"), "a web page came instead of an image"),
        (Reply(body=b" " * (4 * 1024 * 1024 + 1)), "is larger than"),
        (Reply(body=b" " * (4 * 1024 * 1024 + 1), length=-1), "is larger than"),
        (Reply(body=b'{"schemaVersion": 1, "fsLayers": [], "history": []}'), "schema 1"),
        (Reply(body=IMAGE.manifest, headers={"Docker-Content-Digest": digest_of(b"else")}), "was to have the digest"),
        (Reply(body=b"{"), "is not understood"),
        (Reply(400), "answers with status 400"),
    ],
)
async def test_wrong_manifests(cache: BlobCache, reply: Reply, message: str) -> None:
    async with hostile(IMAGE, for_manifest(reply)) as registry:
        with pytest.raises(BangerError, match=message):
            await pull(registry, cache)


async def test_digest_is_computed_where_the_registry_does_not_tell_it(cache: BlobCache) -> None:
    async with hostile(IMAGE, for_manifest(Reply(body=IMAGE.manifest))) as registry:
        assert (await pull(registry, cache)).manifest_digest == IMAGE.digest


async def test_registry_that_does_not_know_head(cache: BlobCache) -> None:
    async with hostile(IMAGE, lambda request: Reply(405) if request.method == "HEAD" else None) as registry:
        assert (await pull(registry, cache)).manifest_digest == IMAGE.digest


async def test_busy_server_is_given_the_time_it_asks_for(cache: BlobCache) -> None:
    waits = Waits()
    async with hostile(IMAGE, first_time(lambda _: Reply(429, headers={"Retry-After": "7"}))) as registry:
        await pull(registry, cache, waits)
    assert waits.seconds == [7.0]


async def test_server_that_asks_for_too_much_time(cache: BlobCache) -> None:
    waits = Waits()
    limit = Reply(429, b'{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your pull rate limit."}]}', {"Retry-After": "86400"})
    async with hostile(IMAGE, for_blob(limit)) as registry:
        with pytest.raises(BangerError, match=r"has had too many requests from here: You have reached your pull rate limit\.") as caught:
            await pull(registry, cache, waits)
        assert "docker login" in caught.value.hint
    assert waits.seconds == []


@pytest.mark.parametrize("status", [500, 502, 503])
async def test_failing_server_is_asked_again_but_not_for_ever(cache: BlobCache, status: int) -> None:
    waits = Waits(attempts=4)
    async with hostile(IMAGE, for_blob(Reply(status))) as registry:
        with pytest.raises(BangerError, match=f"answers with status {status}"):
            await pull(registry, cache, waits)
        assert len(registry.blob_requests(LAYER)) == 4
    assert all(base / 2 <= wait <= base for wait, base in zip(waits.seconds, (0.5, 1.0, 2.0), strict=True))


async def test_forbidden(cache: BlobCache) -> None:
    refused = Reply(403, b'{"errors":[{"code":"DENIED","message":"not\\u001b[31m you"}]}')
    async with hostile(IMAGE, for_blob(refused)) as registry:
        with pytest.raises(Unauthorized, match=r"refuses 127\.0\.0\.1:[0-9]+/app:1: not\[31m you"):
            await pull(registry, cache)


def log_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, host: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"auths": {host: {"auth": base64.b64encode(b"me:secret-word").decode()}}}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))


async def test_credentials_do_not_follow_a_redirect_to_another_host(cache: BlobCache, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async with hostile(IMAGE) as elsewhere, hostile(IMAGE) as registry:
        log_in(monkeypatch, tmp_path, registry.host)

        def answer(request: Request) -> Reply | None:
            if "authorization" not in request.headers:
                return Reply(401, headers={"WWW-Authenticate": 'Basic realm="x"'})
            return Reply(307, headers={"Location": f"http://{elsewhere.host}/cdn/blobs/{LAYER}"}) if request.name == LAYER else None

        registry.answer = answer
        assert (await pull(registry, cache)).layers[0].path.read_bytes() == BLOB
    assert all("authorization" not in request.headers for request in elsewhere.requests)
    assert registry.blob_requests(LAYER)[-1].headers["authorization"].startswith("Basic ")
    assert len(elsewhere.requests) == 1


async def test_redirect_inside_the_registry_keeps_credentials(cache: BlobCache, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async with hostile(IMAGE) as registry:
        log_in(monkeypatch, tmp_path, registry.host)

        def answer(request: Request) -> Reply | None:
            if "authorization" not in request.headers:
                return Reply(401, headers={"WWW-Authenticate": 'Basic realm="x"'})
            return Reply(302, headers={"Location": f"/elsewhere/blobs/{LAYER}"}) if request.path.startswith("/v2/") and request.name == LAYER else None

        registry.answer = answer
        assert (await pull(registry, cache)).layers[0].path.read_bytes() == BLOB


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("/v2/app/blobs/" + LAYER, "redirects more than 5 times"),
        ("", "redirects to nowhere"),
        ("file:///etc/passwd", "no plain web address"),
        ("http://user:word@127.0.0.1/", "no plain web address"),
        ("http://registry.example/blob", "without encryption"),
        ("http://127.0.0.1:port/", "no URL"),
    ],
)
async def test_redirects_that_are_refused(cache: BlobCache, location: str, message: str) -> None:
    async with hostile(IMAGE, for_blob(Reply(307, headers={"Location": location}))) as registry:
        with pytest.raises(BangerError, match=message):
            await pull(registry, cache)


@pytest.mark.parametrize(
    ("challenge", "message"),
    [
        ("", "a kind of login that banger does not know"),
        ("Negotiate", "a kind of login that banger does not know"),
        ('Bearer realm="ftp://x/"', "no address where tokens are given"),
        ('Bearer realm="http://tokens.example/"', "without encryption"),
        ('Basic realm="x"', "does not exist or needs a login"),
    ],
)
async def test_challenges_that_are_refused(cache: BlobCache, challenge: str, message: str) -> None:
    async with hostile(IMAGE, lambda _: Reply(401, headers={"WWW-Authenticate": challenge} if challenge else {})) as registry:
        with pytest.raises(BangerError, match=message):
            await pull(registry, cache)


@pytest.mark.parametrize("body", [b"", b"{}", b'{"token": "a\\nb"}', b'{"token": 1}', b"<html>", b'{"token": "' + b"a" * 2_000_000 + b'"}'])
async def test_token_services_that_give_no_token(cache: BlobCache, body: bytes) -> None:
    async with hostile(IMAGE) as registry:
        challenge = {"WWW-Authenticate": f'Bearer realm="http://{registry.host}/token",service="x"'}
        registry.answer = lambda request: Reply(body=body) if request.path.startswith("/token") else Reply(401, headers=challenge)
        with pytest.raises(BangerError, match=r"gives no token|is larger than"):
            await pull(registry, cache)


async def test_token_that_expires_in_the_middle_is_renewed(cache: BlobCache) -> None:
    tokens = iter(["one", "two"])
    async with hostile(IMAGE) as registry:
        challenge = {"WWW-Authenticate": f'Bearer realm="http://{registry.host}/token",service="x"'}

        def answer(request: Request) -> Reply | None:
            if request.path.startswith("/token"):
                return Reply(body=json.dumps({"token": next(tokens), "expires_in": 3600}).encode())
            wanted = "Bearer two" if request.name == LAYER else "Bearer one"
            return None if request.headers.get("authorization") == wanted else Reply(401, headers=challenge)

        registry.answer = answer
        assert (await pull(registry, cache)).layers[0].path.read_bytes() == BLOB


async def test_one_layer_is_fetched_once_however_many_want_it(cache: BlobCache) -> None:
    """Each with a cache object of its own, as other processes have."""
    async with hostile(IMAGE) as registry:
        pulls = await asyncio.gather(*(pull(registry, BlobCache(cache.root)) for _ in range(4)))
        assert len(registry.blob_requests(LAYER)) == 1
    assert len(set(pulls)) == 1


async def test_cancelled_pull_is_continued_by_the_next(cache: BlobCache) -> None:
    half = len(BLOB) // 2
    async with hostile(IMAGE, for_blob(Reply(body=BLOB, sent=half, stall=True))) as registry:
        there = asyncio.Event()

        def report(stage: str, message: str = "", *, progress: float | None = None, warning: bool = False) -> None:
            if progress:
                there.set()

        running = asyncio.create_task(fetch(parse(f"{registry.host}/app:1"), cache, report))
        await there.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        [partial] = partials_in(cache)
        kept = partial.stat().st_size
        registry.answer = lambda _: None
        assert (await pull(registry, cache)).layers[0].path.read_bytes() == BLOB
        assert registry.blob_requests(LAYER)[-1].headers["range"] == f"bytes={kept}-"
    assert partials_in(cache) == []


async def test_every_new_attempt_is_told(cache: BlobCache) -> None:
    said: list[str] = []

    def report(stage: str, message: str = "", *, progress: float | None = None, warning: bool = False) -> None:
        said.append(message)

    async with hostile(IMAGE, for_blob(Reply(503))) as registry:
        with pytest.raises(BangerError):
            await fetch(parse(f"{registry.host}/app:1"), cache, report, patience=Waits(attempts=3).patience)
        again = [message.partition(", ")[2] for message in said if "trying again" in message]
        assert again == ["trying again (2 of 3)", "trying again (3 of 3)"]
        assert all(registry.host in message for message in said if "trying again" in message)


async def test_failed_layer_ends_the_others(cache: BlobCache) -> None:
    image = make_image([tar_of({"a": BIG}), tar_of({"b": BIG})], packing="")
    missing, other = (layer["digest"] for layer in image.layers)

    def answer(request: Request) -> Reply | None:
        return {missing: Reply(404), other: Reply(body=BIG, length=10**7, sent=10, stall=True)}.get(request.name) if request.is_blob else None

    async with hostile(image, answer) as registry:
        with pytest.raises((NotFound, BangerError)):
            await pull(registry, cache)
    assert not {missing, other} & blobs_in(cache)


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """Key and certificate of 127.0.0.1 in one file."""
    pem, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30"]
    command += ["-subj", "/CN=tests", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, "-keyout", key, "-out", pem], check=True, stdin=subprocess.DEVNULL, capture_output=True)
    pem.write_bytes(key.read_bytes() + pem.read_bytes())
    return pem


def tls_server(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


async def test_https(cache: BlobCache, certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with hostile(IMAGE, tls=tls_server(certificate)) as registry:
        with pytest.raises(BangerError, match=r"the certificate of 127\.0\.0\.1:[0-9]+ is not trusted: self.signed certificate"):
            await pull(registry, cache)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert (await pull(registry, cache)).layers[0].path.read_bytes() == BLOB


async def test_redirect_from_https_to_http_is_refused(cache: BlobCache, certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    async with hostile(IMAGE) as plain, hostile(IMAGE, tls=tls_server(certificate)) as registry:
        registry.answer = for_blob(Reply(307, headers={"Location": f"http://{plain.host}/blobs/{LAYER}"}))
        with pytest.raises(BangerError, match="redirects from https to http"):
            await pull(registry, cache)
        assert plain.requests == []


async def test_plain_http_is_for_this_machine_and_for_hosts_that_were_named() -> None:
    http = Http("registry.example", frozenset({"Named.example:5000", "other.example:80"}), Patience())
    try:
        allowed = [host for host in ("localhost:1", "127.9.9.9", "[::1]:5000", "named.example:5000", "other.example") if http.may_be_plain(host)]
        assert len(allowed) == 5
        assert not any(map(http.may_be_plain, ("registry.example", "named.example", "127.0.0.1.example", "localhost.example", "10.0.0.1")))
        with pytest.raises(BangerError, match="without encryption") as caught:
            async with http.exchange("GET", "http://registry.example/v2/", headers={}):
                pass
        assert "--insecure-registry registry.example" in caught.value.hint
    finally:
        await http.close()


async def test_host_that_does_not_speak_https() -> None:
    http = Http("registry.example", frozenset(), Patience())
    try:
        async with hostile(IMAGE) as registry:
            with pytest.raises(BangerError, match="does not speak HTTPS") as caught:
                async with http.exchange("GET", f"https://{registry.host}/v2/", headers={}):
                    pass
            assert f"--insecure-registry {registry.host}" in caught.value.hint
    finally:
        await http.close()


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1", "gopher://127.0.0.1"])
async def test_proxies_of_other_kinds(cache: BlobCache, monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    monkeypatch.setenv("https_proxy", proxy)
    with pytest.raises(BangerError, match="the proxy in the daemon's environment cannot be used") as caught:
        await resolve(parse("registry.example/app"), cache)
    assert "no_proxy" in caught.value.hint


async def test_loopback_is_never_proxied(cache: BlobCache, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with hostile(IMAGE) as registry:
        assert (await pull(registry, cache)).manifest_digest == IMAGE.digest


async def test_broken_framing_is_tried_again(cache: BlobCache) -> None:
    async with hostile(IMAGE, first_time(lambda _: Reply(body=BLOB, length=len(BLOB), headers={"Transfer-Encoding": "chunked"}))) as registry:
        assert (await pull(registry, cache)).layers[0].path.read_bytes() == BLOB


async def test_nobody_listens(cache: BlobCache) -> None:
    async with hostile(IMAGE) as registry:
        pass
    with pytest.raises(BangerError, match=r"127\.0\.0\.1:[0-9]+ cannot be reached"):
        await resolve(parse(f"{registry.host}/app:1"), cache)
