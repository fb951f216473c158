"""Where a copy goes: the table of `docker cp`."""

from __future__ import annotations

from pathlib import Path

import pytest

from banger.client.places import Found, HostFiles, Place, Target, find_source, find_target, parse_place
from banger.model.errors import BadRequest


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "dir/sub").mkdir(parents=True)
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "to-dir").symlink_to("dir")
    (tmp_path / "to-file").symlink_to("file")
    (tmp_path / "dangling").symlink_to("dir/new")
    return tmp_path


@pytest.mark.parametrize(
    ("word", "place"),
    [
        ("box:/a", Place("box", "/a")),
        ("box:a:b", Place("box", "a:b")),
        ("/x:y", Place("", "/x:y")),
        ("./x:y", Place("", "./x:y")),
        ("../x:y", Place("", "../x:y")),
        ("d/x:y", Place("", "d/x:y")),
        ("plain", Place("", "plain")),
        ("-", Place("", "-")),
    ],
)
def test_words(word: str, place: Place) -> None:
    assert parse_place(word) == place


@pytest.mark.parametrize("word", ["", ":x", "box:"])
def test_half_words(word: str) -> None:
    with pytest.raises(BadRequest):
        parse_place(word)


def target(files: Path, source: str, destination: str, *, follow: bool = False) -> Target:
    found = None if source == "-" else find_source(HostFiles(), Place("", f"{files}/{source}"), follow=follow)
    where = find_target(HostFiles(), Place("", f"{files}/{destination}"), found)
    return Target(where.directory.removeprefix(str(files)), where.name)


@pytest.mark.parametrize(
    ("source", "destination", "expected"),
    [
        ("file", "new", Target("", "new")),
        ("file", "dir", Target("/dir", "file")),
        ("file", "dir/", Target("/dir", "file")),
        ("file", "dir/.", Target("/dir", "file")),
        ("file", "file", Target("", "file")),
        ("file", "to-dir", Target("/dir", "file")),
        ("file", "to-file", Target("", "file")),
        ("file", "dangling", Target("/dir", "new")),
        ("dir", "new", Target("", "new")),
        ("dir", "new/", Target("", "new")),
        ("dir", "dir/sub", Target("/dir/sub", "dir")),
        ("dir/", "dir/sub", Target("/dir/sub", "dir")),
        ("dir/.", "dir/sub", Target("/dir/sub", "")),
        ("dir/.", "new", Target("", "new")),
        ("to-dir", "dir", Target("/dir", "to-dir")),
        ("to-dir/", "dir", Target("/dir", "to-dir")),
        ("-", "dir", Target("/dir", "")),
    ],
)
def test_targets(files: Path, source: str, destination: str, expected: Target) -> None:
    assert target(files, source, destination) == expected


@pytest.mark.parametrize(
    ("source", "destination", "message"),
    [
        ("nothing", "dir", "there is no"),
        ("file/", "dir", "is not a directory"),
        ("file", "new/", "there is no directory"),
        ("file", "no/new", "there is no directory"),
        ("file", "file/new", "there is no directory"),
        ("file", "to-file/", "is not a directory"),
        ("dir", "file", "cannot copy a directory"),
        ("dir/.", "file", "cannot copy a directory"),
        ("dir", "no/new", "there is no directory"),
        ("-", "file", "is not a directory"),
        ("-", "new", "is not a directory"),
    ],
)
def test_refusals(files: Path, source: str, destination: str, message: str) -> None:
    with pytest.raises(BadRequest, match=message) as caught:
        target(files, source, destination)
    assert caught.value.hint


def test_what_is_missing_in_a_machine_can_be_looked_for() -> None:
    class Nothing:
        def look(self, path: str, *, follow: bool) -> Found:
            return Found("missing", path)

    with pytest.raises(BadRequest, match="there is no box:a b/nope") as caught:
        find_source(Nothing(), Place("box", "a b/nope"), follow=False)
    assert caught.value.hint.endswith("banger vm exec box -- ls -a '/a b'")


def test_links_at_the_end(files: Path) -> None:
    assert find_source(HostFiles(), Place("", f"{files}/to-dir"), follow=False).kind == "symlink"
    assert find_source(HostFiles(), Place("", f"{files}/to-dir"), follow=True).kind == "directory"
    assert find_source(HostFiles(), Place("", f"{files}/to-dir/."), follow=False).contents
    assert Place("box", "a/../b/").clean == "/b" and Place("box", "//x").clean == "/x"
