"""Reading releases from a web server that does not mean well, and from a directory."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from banger.model.errors import BadRequest, BangerError, NotFound
from banger.system.fetch import DirectorySource, WebSource, download, read_bounded, source_at

CONTENT = os.urandom(300_000)


class Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2]
        if name.startswith("to-"):
            targets = {"to-plain": "http://example.org/x", "to-file": "file:///etc/passwd", "to-loop": "/to-loop", "to-good": "/good", "to-none": ""}
            self.send_response(302)
            self.send_header("Location", targets[name])
            self.end_headers()
            return
        self.send_response({"good": 200, "cut": 200, "zipped": 200, "broken": 500}.get(name, 404))
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[: 1000 if name == "cut" else len(CONTENT)])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def web() -> Iterator[WebSource]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield WebSource(f"http://127.0.0.1:{server.server_port}/")
        server.shutdown()
        thread.join()


def test_good(web: WebSource, tmp_path: Path) -> None:
    assert read_bounded(web, "good", len(CONTENT)) == CONTENT
    assert read_bounded(web, "to-good", len(CONTENT)) == CONTENT
    seen: list[int] = []
    download(web, "good", tmp_path / "x", size=len(CONTENT), sha256=hashlib.sha256(CONTENT).hexdigest(), on_bytes=seen.append)
    assert (tmp_path / "x").read_bytes() == CONTENT
    assert sum(seen) == len(CONTENT)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "is not there"),
        ("broken", "answers 500"),
        ("cut", "broke"),
        ("to-plain", "is not encrypted"),
        ("to-file", "not a plain web address"),
        ("to-loop", "more than 5 times"),
        ("to-none", "more than 5 times"),
    ],
)
def test_bad(web: WebSource, name: str, message: str) -> None:
    with pytest.raises(BangerError, match=message):
        read_bounded(web, name, 1 << 20)


def test_no_more_than_agreed(web: WebSource, tmp_path: Path) -> None:
    with pytest.raises(BangerError, match="larger than 16 KiB"):
        read_bounded(web, "good", 16 * 1024)
    digest = hashlib.sha256(CONTENT).hexdigest()
    for name, size, sha256, message in (
        ("good", len(CONTENT) - 1, digest, "longer than"),
        ("good", len(CONTENT) + 1, digest, "ends after"),
        ("good", len(CONTENT), "0" * 64, "is not the file that was signed"),
        ("cut", len(CONTENT), digest, "broke"),
    ):
        with pytest.raises(BangerError, match=message):
            download(web, name, tmp_path / "x", size=size, sha256=sha256, on_bytes=lambda _: None)
        assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("address", ["http://example.org/banger", "ftp://example.org/", "https://user:word@example.org/", "https://", "/nowhere", "x"])
def test_addresses_that_are_refused(address: str) -> None:
    with pytest.raises(BadRequest):
        source_at(address)


def test_nobody_there() -> None:
    with pytest.raises(BangerError, match="cannot be reached"):
        read_bounded(source_at("http://127.0.0.1:1"), "x", 10)


def test_a_directory(tmp_path: Path) -> None:
    source = source_at(str(tmp_path))
    assert isinstance(source, DirectorySource)
    (tmp_path / "x").write_bytes(CONTENT)
    assert read_bounded(source, "x", len(CONTENT)) == CONTENT
    with pytest.raises(NotFound):
        read_bounded(source, "y", 10)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BangerError, match="cannot be read"):
        read_bounded(source, "pipe", 10)
