"""``[[file_sync]]``: what the host's files become, and what never leaves the host."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from banger.access import file_sync
from banger.access.file_sync import read_files
from banger.guest.agent import FileToWrite
from banger.model.config import FileSync
from banger.model.errors import BadRequest


def test_files_and_trees(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "one").write_bytes(b"1")
    tree = tmp_path / "tree"
    (tree / "below").mkdir(parents=True)
    (tree / "below/run").write_bytes(b"#!")
    (tree / "below/run").chmod(0o755)
    (tree / "a").write_bytes(b"a")
    (tree / "a").chmod(0o640)
    (tmp_path / "secret").write_bytes(b"s")
    (tree / "link").symlink_to(tmp_path / "secret")
    (tree / "dir").symlink_to(tmp_path)
    os.mkfifo(tree / "fifo")
    entries = (
        FileSync(host="~/one", guest="/root/x/one"),
        FileSync(host="~/one", guest="/root/open", mode=0o644),
        FileSync(host=str(tree), guest="/root/tree", mode=0o600),
        FileSync(host="~/nothing", guest="/root/nothing"),
    )
    assert read_files(entries, tmp_path) == (
        FileToWrite(path="/root/x/one", content=b"1", mode=0o600),
        FileToWrite(path="/root/open", content=b"1", mode=0o644),
        FileToWrite(path="/root/tree/a", content=b"a", mode=0o640),
        FileToWrite(path="/root/tree/below/run", content=b"#!", mode=0o755),
    )
    skipped = {Path(record.__dict__["path"]).name for record in caplog.records}
    assert skipped == {"link", "dir", "fifo", "nothing"}


def test_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_sync, "MAX_BYTES", 10)
    (tmp_path / "big").write_bytes(bytes(11))
    with pytest.raises(BadRequest, match="~/big: more than"):
        read_files((FileSync(host="~/big", guest="/root/big"),), tmp_path)


def test_what_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(BadRequest, match="neither a file nor a directory"):
        read_files((FileSync(host="~/fifo", guest="/root/f"),), tmp_path)
