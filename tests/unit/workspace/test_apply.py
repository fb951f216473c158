"""What a patch may do to the host: every kind of change that our own exports have, and nothing that only a made up one has."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from banger.workspace.apply import PatchRefused, apply_patch, check_patch
from banger.workspace.patch import FilePatch, read_patch
from banger.workspace.repository import open_repository
from tests.unit.workspace.repositories import commit, fingerprint, git, new_repository, tree_of, write


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    place = new_repository(tmp_path / "project")
    write(place / "file", "one\n")
    write(place / "dir/f", "inside\n")
    (place / "l").symlink_to("dir")
    commit(place)
    return place


def changes_of(repository: Path) -> bytes:
    """What an export would say about the working tree; afterwards it is as it was."""
    git(repository, "add", "-A")
    patch = git(repository, "diff", "--cached", "--binary", "--full-index", "--no-renames").encode("utf-8", "surrogateescape")
    git(repository, "reset", "-q", "--hard")
    git(repository, "clean", "-qfdx")
    return patch


def take(repository: Path, patch: bytes) -> None:
    found = open_repository(str(repository))
    check_patch(found, patch)
    apply_patch(found, patch)


def link_to_directory(place: Path) -> None:
    (place / "l").unlink()
    write(place / "l/f", "in\n")


def link_to_file(place: Path) -> None:
    (place / "l").unlink()
    write(place / "l", "in\n")


def directory_to_link(place: Path) -> None:
    shutil.rmtree(place / "dir")
    (place / "dir").symlink_to("l")


def directory_to_file(place: Path) -> None:
    shutil.rmtree(place / "dir")
    write(place / "dir", "now a file\n")


def file_to_directory(place: Path) -> None:
    (place / "file").unlink()
    write(place / "file/deep/er", "in\n")


@pytest.mark.parametrize("change", [link_to_directory, link_to_file, directory_to_link, directory_to_file, file_to_directory])
def test_kinds_that_change_come_home(repository: Path, change: object) -> None:
    change(repository)  # type: ignore[operator]
    there = tree_of(repository)
    patch = changes_of(repository)
    take(repository, patch)
    assert tree_of(repository) == there


def test_a_link_that_stays_is_still_in_the_way(repository: Path) -> None:
    """The patch deletes another link, or deletes what is behind this one."""
    (repository / "l").unlink()
    write(repository / "l/f", "in\n")
    patch = changes_of(repository)
    behind = patch[patch.index(b"diff --git a/l/f") :]
    with pytest.raises(PatchRefused, match="behind the symbolic link 'l'"):
        check_patch(open_repository(str(repository)), behind)


def test_a_directory_with_more_in_it_does_not_become_a_file(repository: Path) -> None:
    directory_to_file(repository)
    patch = changes_of(repository)
    write(repository / "dir/mine", "the host's\n")
    before = fingerprint(repository)
    with pytest.raises(PatchRefused, match=r"'dir/mine' is in the way"):
        take(repository, patch)
    assert fingerprint(repository) == before


COPY = b"diff --git a/%(old)s b/stolen\nsimilarity index 100%%\ncopy from %(old)s\ncopy to stolen\n"
RENAME = b"diff --git a/file b/other\nsimilarity index 100%\nrename from file\nrename to other\n"
CHANGE = b"@@ -1 +1 @@\n-one\n+two\n"


@pytest.mark.parametrize(
    "patch",
    [
        COPY % {b"old": b"../outside"},
        COPY % {b"old": b".git/config"},
        COPY % {b"old": b"file"},
        RENAME,
        RENAME.replace(b"rename from", b"rename old").replace(b"rename to", b"rename new"),
        b"diff --git a/stolen b/stolen\nsimilarity index 100%\ncopy from .git/config\ncopy to stolen\n",
        b"diff --git a/x b/y\n--- a/file\n+++ b/other\n" + CHANGE,
        b"diff --git a/file b/file\n--- a/.git/config\n+++ b/file\n" + CHANGE,
        b'diff --git "a/../outside" "b/../outside"\n--- a/file\n+++ b/file\n' + CHANGE,
        b"--- a/file\n+++ b/file\n" + CHANGE,
        b"From: somebody\ndiff --git a/file b/file\n--- a/file\n+++ b/file\n" + CHANGE,
        b"diff --git a/file b/file\n--- a/file\n+++ b/file\n@@ -1,2 +1 @@\n-one\n-copy from x\n+two\n+three\n",
        b"diff --git a/file b/file\n--- a/file\n+++ b/file\n" + CHANGE + b"copy from .git/config\n",
    ],
)
def test_what_our_exports_never_have_is_refused(repository: Path, patch: bytes) -> None:
    write(repository.parent / "outside", "secret\n")
    before = fingerprint(repository.parent)
    with pytest.raises(PatchRefused):
        take(repository, patch)
    assert fingerprint(repository.parent) == before


def new_link(path: str, target: str) -> bytes:
    return f"diff --git a/{path} b/{path}\nnew file mode 120000\n--- /dev/null\n+++ b/{path}\n@@ -0,0 +1 @@\n+{target}\n\\ No newline at end of file\n".encode()


@pytest.mark.parametrize(("link", "file"), [("S", "s/esc"), ("stra\u00dfe", "STRASSE/x"), ("e\u0301", "\u00e9/x"), ("a/S", "A/s/x"), ("S", "S/esc")])
def test_names_that_are_the_same_on_other_file_systems_are_refused(repository: Path, link: str, file: str) -> None:
    esc = f"diff --git a/{file} b/{file}\nnew file mode 100644\n--- /dev/null\n+++ b/{file}\n@@ -0,0 +1 @@\n+evil\n".encode()
    for patch in (new_link(link, "..") + esc, esc + new_link(link, "..")):
        with pytest.raises(PatchRefused, match="behind the symbolic link"):
            check_patch(open_repository(str(repository)), patch)


def test_a_patch_is_read_as_git_wrote_it(repository: Path) -> None:
    """Names of all kinds, binary files, modes and lines that look like headers."""
    names = [b"sp ace", b"new\nline", b'q"uote\\', b"caf\xe9", b"tab\there", b"-dash", b"a b/a b"]
    for name in names:
        path = Path(os.fsdecode(os.fsencode(repository) + b"/" + name))
        write(path, b"-- a/x\n++ b/y\ncopy from z\n")
    write(repository / "binary", bytes(range(256)))
    write(repository / "no newline", b"x")
    (repository / "file").chmod(0o755)
    (repository / "l").unlink()
    patch = changes_of(repository)
    parts = {part.path: part for part in read_patch(patch)}
    assert parts.keys() == {*names, b"binary", b"no newline", b"file", b"l"}
    assert parts[b"file"] == FilePatch(b"file", 0o100644, 0o100755, deletes=False)
    assert parts[b"l"] == FilePatch(b"l", 0o120000, 0, deletes=True)
    take(repository, patch)
    for name in names:
        path = Path(os.fsdecode(os.fsencode(repository) + b"/" + name))
        path.write_bytes(b"copy from z\n")
    take(repository, changes_since(repository))


def changes_since(repository: Path) -> bytes:
    """A patch of removed header-like lines that fits onto the working tree."""
    git(repository, "add", "-A")
    git(repository, "commit", "-q", "-m", "x")
    for path in tree_of(repository):
        found = Path(os.fsdecode(os.fsencode(repository) + b"/" + path))
        if not found.is_symlink():
            found.write_bytes(b"")
    return changes_of(repository)
