"""Preparing: what arrives is the working tree, the history it needs and an index that fits; the host's repository stays as it is."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from banger.model.errors import AlreadyExists, BadRequest, BangerError
from banger.workspace import working_tree
from banger.workspace.guest import find_place
from banger.workspace.prepare import Prepared, prepare
from banger.workspace.records import Record
from banger.workspace.source import Options, look_at
from banger.workspace.state import Sent, count_changed
from tests.unit.workspace.local_guest import LocalGuest
from tests.unit.workspace.repositories import commit, fingerprint, git, new_repository, tree_of, varied_repository, write


@pytest.fixture
def guest(tmp_path: Path) -> LocalGuest:
    (tmp_path / "guest").mkdir()
    return LocalGuest(tmp_path / "guest")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return varied_repository(tmp_path / "project")


def send(source: Path, guest: LocalGuest, sent: Sent | None = None, *, force: bool = False, **options: object) -> Prepared:
    before = fingerprint(source)
    found = look_at(str(source), Options(**options))  # type: ignore[arg-type]
    prepared = prepare(found, guest, find_place(guest, ""), sent, force=force)
    assert fingerprint(source) == before
    return prepared


def status(place: Path) -> str:
    return git(place, "status", "--porcelain", "-z", "--untracked-files=all")


def test_tree_history_and_index_arrive(repository: Path, guest: LocalGuest) -> None:
    record = send(repository, guest).record
    inside = guest.home / "repo"
    assert record.guest_path == str(inside)
    expected = {path: file for path, file in tree_of(repository).items() if path != b"src/main.o"}
    assert tree_of(inside) == expected
    assert status(inside) == ""
    assert git(inside, "rev-parse", "HEAD") == git(repository, "rev-parse", "HEAD")
    assert git(inside, "symbolic-ref", "HEAD").strip() == "refs/heads/main"
    assert git(inside, "log", "--format=%s").split("\n")[:3] == ["rename", "second", "first"]
    assert git(inside, "fsck", "--strict", "--full").strip() in ("", f"dangling commit {git(inside, 'rev-parse', 'refs/banger/prepared').strip()}")
    assert git(inside, "config", "user.email").strip() == "ann@example.org"
    assert list((inside / ".git/hooks").iterdir()) == []
    assert not (inside / ".git/objects/info/alternates").exists()


def test_local_changes_are_carried_with_their_place_in_the_index(repository: Path, guest: LocalGuest) -> None:
    write(repository / "src/main.c", "staged\n")
    git(repository, "add", "src/main.c")
    write(repository / "src/main.c", "and changed again\n")
    (repository / "crlf.txt").unlink()
    git(repository, "rm", "-q", "--cached", "empty")
    write(repository / "new", "untracked\n")
    (repository / "bin/run").chmod(0o644)
    git(repository, "mv", "data.bin", "moved.bin")
    prepared = send(repository, guest, include_untracked=True)
    inside = guest.home / "repo"
    assert status(inside) == status(repository)
    assert git(inside, "diff", "--binary", "--cached") == git(repository, "diff", "--binary", "--cached")
    assert git(inside, "diff", "--binary") == git(repository, "diff", "--binary")
    assert prepared.files > 0


def test_untracked_files_stay_unless_asked_for(repository: Path, guest: LocalGuest) -> None:
    write(repository / "notes/new.txt")
    source = look_at(str(repository), Options())
    assert source.untracked == 1
    send(repository, guest)
    assert not (guest.home / "repo/notes").exists()


def test_history_is_shallow_unless_full(tmp_path: Path, guest: LocalGuest) -> None:
    project = new_repository(tmp_path / "long")
    for number in range(30):
        write(project / f"file{number % 3}", f"{number}\n")
        commit(project, str(number))
    git(project, "tag", "-a", "v1", "-m", "one", "HEAD~20")
    send(project, guest)
    inside = guest.home / "repo"
    assert git(inside, "rev-list", "--count", "HEAD").strip() == "10"
    assert git(inside, "rev-parse", "--is-shallow-repository").strip() == "true"
    git(inside, "fsck", "--strict")
    full = LocalGuest(tmp_path / "whole")
    full.home.mkdir()
    send(project, full, full=True)
    assert git(full.home / "repo", "rev-list", "--count", "HEAD").strip() == "30"
    assert git(full.home / "repo", "tag").strip() == "v1"
    git(full.home / "repo", "fsck", "--strict")


def test_a_branch_from_an_old_commit(tmp_path: Path, guest: LocalGuest) -> None:
    project = new_repository(tmp_path / "long")
    for number in range(15):
        write(project / "file", f"{number}\n")
        commit(project, str(number))
    old = git(project, "rev-parse", "HEAD~14").strip()
    record = send(project, guest, branch="topic/new", base=old).record
    inside = guest.home / "repo"
    assert (record.base_commit, record.branch) == (old, "topic/new")
    assert git(inside, "rev-parse", "topic/new").strip() == old
    assert (inside / "file").read_text() == "14\n"
    assert status(inside) == " M file\0"
    assert git(inside, "rev-parse", "--abbrev-ref", "HEAD").strip() == "topic/new"


def test_a_detached_head_stays_detached(repository: Path, guest: LocalGuest) -> None:
    git(repository, "checkout", "-q", "--detach", "HEAD~1")
    assert send(repository, guest).record.branch == ""
    assert git(guest.home / "repo", "symbolic-ref", "-q", "HEAD", status=1) == ""
    assert status(guest.home / "repo") == ""


def test_a_linked_worktree(repository: Path, guest: LocalGuest) -> None:
    git(repository, "worktree", "add", "-q", "../linked", "other")
    linked = repository.parent / "linked"
    write(linked / "empty", "not any more\n")
    assert send(linked, guest).record.branch == "other"
    assert status(guest.home / "repo") == " M empty\0"


def test_a_shallow_clone(repository: Path, guest: LocalGuest) -> None:
    git(repository.parent, "clone", "-q", "--depth=2", f"file://{repository}", "shallow")
    send(repository.parent / "shallow", guest)
    inside = guest.home / "repo"
    assert git(inside, "rev-list", "--count", "HEAD").strip() == "2"
    assert status(inside) == ""
    git(inside, "fsck")


def test_a_borrowing_clone(repository: Path, guest: LocalGuest) -> None:
    git(repository.parent, "clone", "-q", "--shared", str(repository), "borrows")
    send(repository.parent / "borrows", guest)
    assert status(guest.home / "repo") == ""
    git(guest.home / "repo", "fsck")


def test_a_repository_with_sha256(tmp_path: Path, guest: LocalGuest) -> None:
    place = tmp_path / "new"
    place.mkdir()
    git(place, "init", "-q", "-b", "main", "--object-format=sha256")
    write(place / "file")
    commit(place)
    write(place / "file", "other\n")
    send(place, guest)
    assert status(guest.home / "repo") == " M file\0"


def test_a_merge_in_progress(repository: Path, guest: LocalGuest) -> None:
    git(repository, "checkout", "-q", "-b", "left")
    write(repository / "crlf.txt", "left\n")
    commit(repository)
    git(repository, "checkout", "-q", "-b", "right", "HEAD~1")
    write(repository / "crlf.txt", "right\n")
    commit(repository)
    git(repository, "merge", "left", status=1)
    prepared = send(repository, guest)
    assert any("merge is in progress" in notice for notice in prepared.notices)
    assert "<<<<<<<" in (guest.home / "repo/crlf.txt").read_text()
    assert status(guest.home / "repo") == " M crlf.txt\0"


def test_line_ends_that_git_converts_are_clean(tmp_path: Path, guest: LocalGuest) -> None:
    project = new_repository(tmp_path / "crlf")
    write(project / ".gitattributes", "*.txt text eol=crlf\n")
    write(project / "a.txt", b"one\r\ntwo\r\n")
    write(project / "b.txt", b"one\r\n")
    commit(project)
    write(project / "b.txt", b"two\r\n", age=30)
    send(project, guest)
    assert (guest.home / "repo/a.txt").read_bytes() == b"one\r\ntwo\r\n"
    assert status(guest.home / "repo") == " M b.txt\0"


def test_lfs_pointers_are_sent_with_a_notice(tmp_path: Path, guest: LocalGuest) -> None:
    project = new_repository(tmp_path / "lfs")
    write(project / "big.bin", f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 5\n")
    commit(project)
    prepared = send(project, guest)
    assert any("git-LFS" in notice for notice in prepared.notices)
    assert status(guest.home / "repo") == ""


def test_sparse_checkouts_stay_sparse(repository: Path, guest: LocalGuest) -> None:
    git(repository, "sparse-checkout", "set", "--no-cone", "/src/")
    assert not (repository / "crlf.txt").exists()
    send(repository, guest)
    assert status(guest.home / "repo") == ""
    assert not (guest.home / "repo/crlf.txt").exists()


def test_submodules_are_refused_or_sent_as_files(repository: Path, guest: LocalGuest, tmp_path: Path) -> None:
    inner = new_repository(tmp_path / "inner")
    write(inner / "deep/file", "inner\n")
    commit(inner)
    git(repository, "submodule", "add", "-q", str(inner), "vendor/inner")
    commit(repository)
    with pytest.raises(BadRequest, match="submodules"):
        look_at(str(repository), Options())
    send(repository, guest, full=True)
    assert (guest.home / "repo/vendor/inner/deep/file").read_text() == "inner\n"
    assert status(guest.home / "repo") == ""


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda path: path.mkdir(), "not in a git repository"),
        (lambda path: subprocess.run(["git", "init", "-q", "--bare", path], check=True), "bare repository"),
        (new_repository, "no commits"),
        (lambda path: path.write_text("x"), "not a directory"),
        (lambda path: None, "no such directory"),
    ],
)
def test_what_cannot_be_a_workspace(tmp_path: Path, make: Callable[[Path], object], complaint: str) -> None:
    make(tmp_path / "there")
    with pytest.raises(BadRequest, match=complaint):
        look_at(str(tmp_path / "there"), Options())


def test_without_git_all_but_git_is_sent(repository: Path, guest: LocalGuest) -> None:
    outside = repository.parent / "outside"
    write(outside / "secret")
    (repository / "out").symlink_to(outside)
    send(repository, guest, no_git=True)
    assert tree_of(guest.home / "repo") == tree_of(repository)
    assert not (guest.home / "repo/.git").exists()
    assert (guest.home / "repo/out").is_symlink()


def test_a_tracked_directory_that_became_a_link_leads_nowhere(repository: Path, guest: LocalGuest) -> None:
    write(repository.parent / "elsewhere/main.c", "secret\n")
    (repository / "src").rename(repository.parent / "old")
    (repository / "src").symlink_to("../elsewhere")
    send(repository, guest)
    assert not (guest.home / "repo/src").exists()


def test_again_sends_only_what_changed(repository: Path, guest: LocalGuest) -> None:
    first = send(repository, guest)
    write(repository / "src/main.c", "changed\n", age=30)
    write(repository / "src/added.c", "new\n", age=30)
    git(repository, "add", "src/added.c")
    (repository / "data.bin").unlink()
    second = send(repository, guest, first.sent)
    outside_git = {path for path in guest.sent if not path.startswith(b".git/") and path not in (b".git", b"src")}
    assert outside_git == {b"src/main.c", b"src/added.c", b"data.bin"}
    assert status(guest.home / "repo") == status(repository)
    guest.sent = []
    third = send(repository, guest, second.sent)
    assert (third.files, third.removed, guest.sent) == (0, 0, [])


def test_again_after_commits(repository: Path, guest: LocalGuest) -> None:
    sent = send(repository, guest).sent
    for number in range(3):
        write(repository / f"new{number}", f"{number}\n")
        commit(repository)
    git(repository, "checkout", "-q", "-b", "fresh")
    record = send(repository, guest, sent).record
    inside = guest.home / "repo"
    assert record.branch == "fresh"
    assert git(inside, "rev-parse", "HEAD") == git(repository, "rev-parse", "HEAD")
    assert status(inside) == ""
    git(inside, "fsck", "--strict")
    assert git(inside, "rev-list", "--count", "HEAD").strip() == "6"


def test_again_after_history_was_rewritten(repository: Path, guest: LocalGuest) -> None:
    sent = send(repository, guest).sent
    git(repository, "commit", "-q", "--amend", "-m", "other words")
    git(repository, "reflog", "expire", "--expire=now", "--all")
    git(repository, "gc", "-q", "--prune=now")
    send(repository, guest, sent)
    assert git(guest.home / "repo", "log", "-1", "--format=%s").strip() == "other words"
    git(guest.home / "repo", "fsck", "--strict")


def test_again_keeps_what_the_guest_edited(repository: Path, guest: LocalGuest) -> None:
    sent = send(repository, guest).sent
    inside = guest.home / "repo"
    write(inside / "crlf.txt", "by the guest\n")
    write(repository / "src/main.c", "by the host\n")
    send(repository, guest, sent)
    assert (inside / "crlf.txt").read_text() == "by the guest\n"
    assert (inside / "src/main.c").read_text() == "by the host\n"


def test_again_refuses_to_hide_commits_of_the_guest(repository: Path, guest: LocalGuest) -> None:
    sent = send(repository, guest).sent
    inside = guest.home / "repo"
    write(inside / "crlf.txt", "by the guest\n")
    made = commit(inside, "guest")
    write(repository / "src/main.c", "by the host\n")
    again = send(repository, guest, sent)
    assert git(inside, "rev-parse", "HEAD").strip() == made
    assert (inside / "src/main.c").read_text() == "by the host\n"
    commit(repository, "host")
    with pytest.raises(AlreadyExists, match="commits of its own"):
        send(repository, guest, again.sent)
    send(repository, guest, again.sent, force=True)
    assert git(inside, "log", "-1", "--format=%s").strip() == "host"


def test_a_directory_becomes_a_file_and_back(repository: Path, guest: LocalGuest) -> None:
    sent = send(repository, guest).sent
    (repository / "bin/run").unlink()
    (repository / "bin").rmdir()
    write(repository / "bin", "a file now\n", age=20)
    git(repository, "add", "-A")
    sent = send(repository, guest, sent).sent
    assert (guest.home / "repo/bin").read_text() == "a file now\n"
    (repository / "bin").unlink()
    write(repository / "bin/run", "again\n", age=10)
    git(repository, "add", "-A")
    send(repository, guest, sent)
    assert (guest.home / "repo/bin/run").read_text() == "again\n"
    assert status(guest.home / "repo") == status(repository)


def test_a_place_that_is_taken_is_refused(repository: Path, guest: LocalGuest) -> None:
    write(guest.home / "repo/mine")
    with pytest.raises(AlreadyExists, match="not empty"):
        send(repository, guest)
    send(repository, guest, force=True)


def test_a_lost_state_means_everything_again(repository: Path, guest: LocalGuest) -> None:
    send(repository, guest)
    assert send(repository, guest, None).files > 5
    assert status(guest.home / "repo") == ""


def test_what_went_away_goes_even_when_the_mark_is_lost(repository: Path, guest: LocalGuest) -> None:
    sent = send(repository, guest).sent
    git(repository, "rm", "-q", "data.bin")
    write(guest.home / "repo/.git/banger/prepared", "incomplete\n")
    send(repository, guest, sent)
    assert status(guest.home / "repo") == status(repository) == "D  data.bin\0"


def test_branches_of_the_guest_survive_new_commits(repository: Path, guest: LocalGuest) -> None:
    sent = send(repository, guest, full=True).sent
    inside = guest.home / "repo"
    assert set(git(inside, "branch", "--format=%(refname:short)").split()) == {"main", "feature/one", "other"}
    git(inside, "branch", "mine")
    git(inside, "gc", "-q")
    made = commit(repository, "host")
    send(repository, guest, sent, full=True)
    assert git(inside, "rev-parse", "HEAD").strip() == git(inside, "rev-parse", "main").strip() == made
    assert git(inside, "rev-parse", "mine").strip() == git(repository, "rev-parse", "HEAD~1").strip()
    git(inside, "fsck", "--strict")


def test_a_guest_without_git(repository: Path, guest: LocalGuest, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("sh", "ls", "cat", "id"):
        (tools / name).symlink_to(f"/bin/{name}" if name != "id" else "/usr/bin/id")
    guest.path = str(tools)
    sent = send(repository, guest).sent
    send(repository, guest, sent)
    assert status(guest.home / "repo") == ""


def test_credentials_stay_at_home(repository: Path, guest: LocalGuest) -> None:
    git(repository, "remote", "add", "origin", "https://ann:s3cret@example.org/x.git")
    git(repository, "config", "credential.helper", "store")
    git(repository, "config", "http.extraHeader", "Authorization: s3cret")
    write(repository / ".git/hooks/post-checkout", "#!/bin/sh\n")
    send(repository, guest)
    found = subprocess.run(["grep", "-r", "s3cret\\|credential", str(guest.home)], capture_output=True).stdout
    assert found == b""
    assert git(guest.home / "repo", "remote", "get-url", "origin").strip() == "https://example.org/x.git"


def test_an_interrupted_prepare_is_not_believed(repository: Path, guest: LocalGuest) -> None:
    sent: Sent | None = None
    for content in ("first\n", "second\n"):
        write(repository / "src/main.c", content, age=30)
        with pytest.raises(BangerError, match="cut"):
            prepare(look_at(str(repository), Options()), CutGuest(guest.home), find_place(guest, ""), sent)
        place = find_place(guest, "")
        assert (place.ours, place.marker) == (True, "")
        sent = send(repository, guest, sent).sent
        assert status(guest.home / "repo") == " M src/main.c\0"


class CutGuest(LocalGuest):
    """Loses the connection in the middle."""

    def unpack(self, records: Iterable[Record], destination: str, *, uid: int, gid: int) -> None:
        super().unpack(self._begin(records), destination, uid=uid, gid=gid)

    def _begin(self, records: Iterable[Record]) -> Iterator[Record]:
        for number, record in enumerate(records):
            if number == 6:
                raise BangerError("cut")
            yield record


def test_again_sends_only_objects_that_are_new(repository: Path, guest: LocalGuest) -> None:
    write(repository / "deep/down/file", "one\n")
    write(repository / "aside/file", "one\n")
    commit(repository, "more directories")
    sent = send(repository, guest).sent
    inside = guest.home / "repo"
    for round_, (path, trees) in enumerate((("deep/down/file", 3), ("aside/file", 2), ("deep/down/file", 3))):
        write(repository / path, f"changed {round_}\n")
        sent = send(repository, guest, sent).sent
        (pack,) = [name for name in guest.sent if name.endswith(b".idx")]
        listed = git(inside, "verify-pack", "-v", os.fsdecode(pack)).splitlines()
        kinds = [line.split()[1] for line in listed if re.match("[0-9a-f]{40} ", line)]
        assert sorted(kinds) == ["blob", "commit", *["tree"] * trees]
        assert not [name for name in guest.sent if name.startswith(b".git/objects/") and b"/pack/" not in name]
        assert git(inside, "rev-parse", "refs/banger/prepared:deep", "refs/banger/prepared:aside") == trees_of(repository, "deep", "aside")
    assert git(inside, "fsck", "--strict", "--no-dangling").strip() == ""


def trees_of(repository: Path, *paths: str) -> str:
    """Names of the trees that git makes of directories as they are now, without touching the repository's index."""
    index = repository.parent / "index-of-a-test"
    index.unlink(missing_ok=True)
    environment = {"GIT_INDEX_FILE": str(index)}
    subprocess.run(["git", "add", "-A"], cwd=repository, check=True, env=os.environ | environment)
    tree = subprocess.run(["git", "write-tree"], cwd=repository, check=True, env=os.environ | environment, capture_output=True, text=True).stdout.strip()
    return git(repository, "rev-parse", *(f"{tree}:{path}" for path in paths))


def test_a_directory_whose_name_has_a_newline(tmp_path: Path, guest: LocalGuest) -> None:
    repository = new_repository(tmp_path / "a\nb")
    write(repository / "file", "content\n")
    commit(repository, "first")
    record = send(repository, guest).record
    assert (record.branch, record.head_commit) == ("main", git(repository, "rev-parse", "HEAD").strip())
    assert (guest.home / "repo/file").read_text() == "content\n"


def test_the_place_is_of_the_user_who_asks(guest: LocalGuest) -> None:
    place = find_place(guest, "")
    assert (place.uid, place.gid, place.home) == (os.getuid(), os.getgid(), str(guest.home))


def test_a_file_too_long_to_be_held_is_in_the_snapshot(repository: Path, guest: LocalGuest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(working_tree, "KEEP_LIMIT", 1000)
    write(repository / "src/main.c", "long line\n" * 1000)
    send(repository, guest)
    inside = guest.home / "repo"
    assert git(inside, "show", "refs/banger/prepared:src/main.c") == "long line\n" * 1000
    assert git(inside, "fsck", "--strict", "--no-dangling").strip() == ""


def test_again_removes_nothing_through_a_link_of_the_guest(repository: Path, guest: LocalGuest) -> None:
    write(repository / "d/f")
    write(repository / "d/g", "one\n")
    commit(repository)
    sent = send(repository, guest).sent
    inside = guest.home / "repo"
    (inside / "d").rename(inside / "e")
    (inside / "d").symlink_to("e")
    (repository / "d/f").unlink()
    sent = send(repository, guest, sent).sent
    assert (inside / "e/f").is_file() and (inside / "d").is_symlink()
    write(repository / "d/g", "two\n", age=30)
    send(repository, guest, sent)
    assert ((inside / "d/g").read_text(), (inside / "e/g").read_text()) == ("two\n", "one\n"), "the link gave way to the directory"


def test_again_removes_directories_that_became_empty(repository: Path, guest: LocalGuest) -> None:
    for name in ("gone/deep/f", "kept/deep/f", "used/f", "used/g", "file/x"):
        write(repository / name)
    commit(repository)
    sent = send(repository, guest).sent
    inside = guest.home / "repo"
    write(inside / "kept/own", "the guest's\n")
    for name in ("gone/deep/f", "kept/deep/f", "used/f", "file/x"):
        (repository / name).unlink()
    (repository / "file").rmdir()
    write(repository / "file", "now a file\n", age=30)
    git(repository, "add", "file")
    send(repository, guest, sent)
    assert not (inside / "gone").exists()
    assert os.listdir(inside / "kept") == ["own"]
    assert os.listdir(inside / "used") == ["g"]
    assert (inside / "file").read_text() == "now a file\n"


def test_without_git_empty_directories_are_sent(tmp_path: Path, guest: LocalGuest) -> None:
    plain = tmp_path / "plain"
    (plain / "empty/deep").mkdir(parents=True)
    (plain / "sub/.git").mkdir(parents=True)
    write(plain / "full/f")
    send(plain, guest, no_git=True)
    inside = guest.home / "repo"
    assert {str(path.relative_to(inside)) for path in inside.rglob("*")} == {"empty", "empty/deep", "sub", "full", "full/f"}


@pytest.mark.parametrize("no_git", [False, True])
def test_loops_of_links_are_carried(tmp_path: Path, guest: LocalGuest, no_git: bool) -> None:
    """Also where tracked directories were before."""
    project = new_repository(tmp_path / "loops")
    write(project / "dirlink/sub/f")
    write(project / "sp ace/sub/f")
    write(project / "self/g")
    commit(project)
    for name, target in (("dirlink", "sp ace"), ("sp ace", "dirlink"), ("self", "self")):
        shutil.rmtree(project / name)
        (project / name).symlink_to(target)
    send(project, guest, no_git=no_git, include_untracked=True)
    assert tree_of(guest.home / "repo") == {b"dirlink": ("link", b"sp ace"), b"sp ace": ("link", b"dirlink"), b"self": ("link", b"self")}


def test_what_is_meant_to_be_added_stays_so(repository: Path, guest: LocalGuest) -> None:
    write(repository / "meant", "later\n")
    write(repository / "void", "")
    git(repository, "add", "void")
    before = send(repository, guest, include_untracked=True).sent
    git(repository, "add", "-N", "meant")
    send(repository, guest, before)
    inside = guest.home / "repo"
    assert " A meant\0" in status(repository)
    assert status(inside) == status(repository)
    assert git(inside, "diff") == git(repository, "diff")


def test_changed_files_are_counted_by_size_and_time(repository: Path, guest: LocalGuest) -> None:
    sent = send(repository, guest).sent
    assert sent is not None and count_changed(sent) == 0
    write(repository / "src/main.c", "changed\n", age=30)
    (repository / "empty").unlink()
    assert count_changed(sent) == 2


def test_a_git_directory_that_the_guest_keeps_elsewhere_is_not_ours(repository: Path, guest: LocalGuest) -> None:
    """What is already there could not be relied on: nothing is written through the link."""
    sent = send(repository, guest).sent
    inside = guest.home / "repo"
    (inside / ".git").rename(guest.home / "elsewhere")
    (inside / ".git").symlink_to(guest.home / "elsewhere")
    before = fingerprint(guest.home / "elsewhere")
    with pytest.raises(AlreadyExists, match="no workspace of ours"):
        send(repository, guest, sent)
    send(repository, guest, sent, force=True)
    assert status(inside) == ""
    assert fingerprint(guest.home / "elsewhere") == before
