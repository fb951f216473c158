"""Packs and trees that are written without git: git itself is the judge."""

from __future__ import annotations

from pathlib import Path

import pytest

from banger.workspace import pack as pack_module
from banger.workspace.pack import PackWriter
from banger.workspace.snapshot import Trees, write_commit, write_trees
from banger.workspace.working_tree import Files, FileState
from tests.unit.workspace.repositories import git


def install(repository: Path, made: PackWriter) -> None:
    name, index = made.finish()
    stem = repository / ".git/objects/pack" / f"pack-{name}"
    content = b"".join(made.chunks())
    assert len(content) == made.size
    stem.with_suffix(".pack").write_bytes(content)
    stem.with_suffix(".idx").write_bytes(index)


@pytest.mark.parametrize("object_format", ["sha1", "sha256"])
@pytest.mark.parametrize("in_memory", [pack_module._IN_MEMORY, 100])
def test_git_verifies_what_was_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, object_format: str, in_memory: int) -> None:
    monkeypatch.setattr(pack_module, "_IN_MEMORY", in_memory)
    git(tmp_path, "init", "-q", f"--object-format={object_format}")
    contents = [b"", b"x" * 15, b"y" * 16, bytes(range(256)) * 9, b"z" * (pack_module._STORE_ONLY + 1)]
    with PackWriter(object_format) as made:
        assert made.is_empty
        names = [made.add("blob", content) for content in contents]
        before = made.size
        assert made.add("blob", contents[1]) == names[1]
        assert made.add("blob", b"there already", known=frozenset({made.add("blob", b"there already")}))
        assert made.size > before
        install(tmp_path, made)
    assert git(tmp_path, "fsck", "--strict", "--full").count("dangling blob") == len(contents) + 1
    sizes = git(tmp_path, "cat-file", "--batch-all-objects", "--batch-check=%(objectname) %(objectsize)").split("\n")
    assert {f"{name} {len(content)}" for name, content in zip(names, contents, strict=True)} < set(sizes)


def test_known_objects_are_named_but_not_packed() -> None:
    with PackWriter("sha1") as made:
        empty_tree = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"
        assert made.add("tree", b"", known=frozenset({empty_tree})) == empty_tree
        assert made.is_empty


def files_of(made: PackWriter, contents: dict[bytes, bytes]) -> Files:
    return {path: FileState(0o100644, len(content), 1, made.add("blob", content)) for path, content in contents.items()}


def test_trees_are_as_git_makes_them_and_only_what_was_touched_is_made_again(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    contents = {b"a/b/deep": b"1", b"a/x": b"2", b"a.txt": b"3", b"other/file": b"4", b"gone/only": b"5", b"swap": b"6"}
    with PackWriter("sha1") as made:
        first = write_trees(made, files_of(made, contents), {}, contents, frozenset())
        commit = write_commit(made, first[b""], "0" * 40)
        install(tmp_path, made)
    assert sorted(first) == [b"", b"a", b"a/b", b"gone", b"other"]
    assert git(tmp_path, "rev-parse", f"{commit}^{{tree}}").strip() == first[b""]
    assert git(tmp_path, "fsck", "--strict", "--no-dangling", first[b""]).strip() == ""

    now = {**contents, b"a/b/deep": b"changed", b"swap/inside": b"7"}
    del now[b"gone/only"], now[b"swap"]
    touched = [b"a/b/deep", b"swap/inside", b"gone/only", b"swap"]
    with PackWriter("sha1") as made:
        second = write_trees(made, files_of(made, now), first, touched, frozenset(first.values()))
        install(tmp_path, made)
    with PackWriter("sha1") as anew:
        assert write_trees(anew, files_of(anew, now), {}, now, frozenset()) == second
    assert second[b"other"] == first[b"other"] and b"gone" not in second
    assert names_in(tmp_path, second) == sorted(now)


def names_in(repository: Path, trees: Trees) -> list[bytes]:
    return sorted(git(repository, "ls-tree", "-r", "--name-only", trees[b""]).encode().split())
