"""Bundles over HTTP: the digest before the content, sizes bounded, answers that are no bundle."""

from __future__ import annotations

import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from banger.image import bundle
from banger.image.bundle import BundleManifest
from banger.image.sources.bundle import BundleSource
from banger.model.errors import BadRequest, BangerError, NotFound
from banger.model.progress import silent
from tests.unit.image.made_ext4 import make_ext4

CONTENT = b"the bundle" * 1000
DIGEST = "sha256:" + hashlib.sha256(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/good")
            self.end_headers()
            return
        status, kind, content = {
            "/good": (200, "application/zstd", CONTENT),
            "/page": (200, "text/html; charset=utf-8", b"<html>"),
            "/broken": (500, "text/plain", b""),
        }.get(self.path, (404, "text/plain", b""))
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on stderr."""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def unpacked(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What reached the unpacking, which is played."""
    seen: list[bytes] = []

    def unpack(file: Path, staging: Path, progress: bundle.Progress) -> BundleManifest:
        seen.append(file.read_bytes())
        progress(1, 1)
        make_ext4(staging / "rootfs.ext4")
        return BundleManifest(format="banger-image", version=1, name="x", digest="sha256:r", size_bytes=1, kernel_name="k2")

    monkeypatch.setattr(bundle, "unpack", unpack)
    return seen


@pytest.mark.parametrize("path", ["good", "moved"])
async def test_what_is_right_is_unpacked(server: str, unpacked: list[bytes], tmp_path: Path, path: str) -> None:
    made = await BundleSource(kernel="k", url=f"{server}/{path}", digest=DIGEST).make(tmp_path, silent)
    assert (unpacked, made.digest, made.kernel, made.revision) == ([CONTENT], "sha256:r", "k2", DIGEST)
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("path", "limit", "digest", "kind", "message"),
    [
        ("good", 1 << 20, "sha256:" + "0" * 64, BadRequest, "has digest"),
        ("good", 5000, DIGEST, BadRequest, "is larger than"),
        ("none", 1 << 20, DIGEST, NotFound, "there is nothing at"),
        ("page", 1 << 20, DIGEST, BangerError, "is a web page"),
        ("broken", 1 << 20, DIGEST, BangerError, "status 500"),
    ],
)
async def test_what_is_wrong_is_never_unpacked(
    server: str, unpacked: list[bytes], tmp_path: Path, path: str, limit: int, digest: str, kind: type[BangerError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        await BundleSource(kernel="k", url=f"{server}/{path}", digest=digest, size_limit=limit).make(tmp_path, silent)
    assert unpacked == []


async def test_nobody_answers(unpacked: list[bytes], tmp_path: Path) -> None:
    with pytest.raises(BangerError, match="cannot download"):
        await BundleSource(kernel="k", url="http://127.0.0.1:1/x", digest=DIGEST).make(tmp_path, silent)


async def test_a_files_digest_is_checked_when_one_is_given(unpacked: list[bytes], tmp_path: Path) -> None:
    file, staging = tmp_path / "file", tmp_path / "staging"
    file.write_bytes(CONTENT)
    staging.mkdir()
    with pytest.raises(BadRequest, match="has digest"):
        await BundleSource(kernel="k", path=file, digest="sha256:" + "0" * 64).make(staging, silent)
    assert unpacked == []
    await BundleSource(kernel="k", path=file, digest=DIGEST).make(staging, silent)
    assert (unpacked, file.exists()) == ([CONTENT], True)
