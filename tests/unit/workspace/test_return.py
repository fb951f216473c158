"""The way back: patches and commits reproduce what the guest did, and what a guest makes up is refused with the host as it was."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
import zlib
from collections.abc import Sequence
from hashlib import sha1
from pathlib import Path
from typing import IO

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from banger.model.errors import BadRequest, GuestError
from banger.workspace.apply import PatchRefused, apply_patch, check_patch
from banger.workspace.export import export_patch
from banger.workspace.fetch import fetch_commits
from banger.workspace.guest import OUTPUT_LIMIT, Output, find_place
from banger.workspace.prepare import prepare
from banger.workspace.repository import open_repository
from banger.workspace.source import Options, look_at
from tests.unit.workspace.local_guest import LocalGuest
from tests.unit.workspace.repositories import commit, fingerprint, git, new_repository, tree_of, varied_repository, write


@pytest.fixture
def guest(tmp_path: Path) -> LocalGuest:
    (tmp_path / "guest").mkdir()
    return LocalGuest(tmp_path / "guest")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return varied_repository(tmp_path / "project")


def send(source: Path, guest: LocalGuest, **options: bool) -> Path:
    place = find_place(guest, "")
    prepare(look_at(str(source), Options(**options)), guest, place, None)  # type: ignore[arg-type]
    return Path(place.path)


def bring_back(source: Path, guest: LocalGuest, inside: Path) -> int:
    """Export and apply; how many files changed."""
    patch = export_patch(guest, str(inside))
    repository = open_repository(str(source))
    before = fingerprint(source / ".git")
    changes = check_patch(repository, patch.untrusted_content)
    assert len(changes) == patch.changed_files
    apply_patch(repository, patch.untrusted_content)
    assert fingerprint(source / ".git") == before
    return len(changes)


def test_nothing_changed_is_an_empty_patch(repository: Path, guest: LocalGuest) -> None:
    inside = send(repository, guest)
    assert export_patch(guest, str(inside)).untrusted_content == b""
    assert bring_back(repository, guest, inside) == 0


def test_all_kinds_of_changes_come_back(repository: Path, guest: LocalGuest) -> None:
    write(repository / "crlf.txt", b"dirty\r\nbefore\n")
    inside = send(repository, guest)
    write(inside / "src/main.c", "committed\n")
    commit(inside, "guest")
    write(inside / "staged", b"\0\1\2binary")
    git(inside, "add", "staged")
    write(inside / "crlf.txt", b"dirty\nafter\r\n")
    write(inside / "deep/er/untracked", "new\n")
    (inside / "bin/run").chmod(0o644)
    (inside / "data.bin").unlink()
    (inside / "link").unlink()
    write(inside / "link", "a file\n")
    (inside / "empty").unlink()
    (inside / "empty").symlink_to("crlf.txt")
    write(inside / "src/x.o", "ignored")
    before = tree_of(inside), (inside / ".git/index").read_bytes(), sorted(os.listdir(inside / ".git")), git(inside, "count-objects")
    bring_back(repository, guest, inside)
    assert before == (tree_of(inside), (inside / ".git/index").read_bytes(), sorted(os.listdir(inside / ".git")), git(inside, "count-objects"))
    ignored = {b"src/main.o", b"src/x.o"}
    assert {k: v for k, v in tree_of(repository).items() if k not in ignored} == {k: v for k, v in tree_of(inside).items() if k not in ignored}


def test_line_ends_and_attributes_do_not_change_bytes(tmp_path: Path, guest: LocalGuest) -> None:
    project = new_repository(tmp_path / "crlf")
    write(project / ".gitattributes", "*.txt text eol=crlf\n*.id ident\n*.f filter=missing\n")
    for name in ("a.txt", "b.txt", "c.txt"):
        write(project / name, b"one\r\ntwo\r\n")
    write(project / "x.id", "$Id$\n")
    commit(project)
    write(project / "c.txt", b"mixed\r\nends\n", age=30)
    inside = send(project, guest)
    write(inside / "a.txt", b"one\r\ntwo\r\nthree\r\n")
    write(inside / "b.txt", b"one\ntwo\n")
    write(inside / "c.txt", b"mixed\r\nends\nmore\r")
    write(inside / "x.id", "$Id: guest $\n")
    write(inside / "new.f", "f\r\n")
    bring_back(project, guest, inside)
    assert tree_of(project) == tree_of(inside)


def test_since_a_commit_the_host_s_own_changes_are_in_the_patch(repository: Path, guest: LocalGuest) -> None:
    write(repository / "src/main.c", "by the host\n", age=30)
    inside = send(repository, guest)
    write(inside / "crlf.txt", "by the guest\n")
    assert b"by the host" not in export_patch(guest, str(inside)).untrusted_content
    patch = export_patch(guest, str(inside), base_commit="HEAD")
    assert b"+by the host" in patch.untrusted_content
    assert b"+by the guest" in patch.untrusted_content
    assert patch.base_commit == git(repository, "rev-parse", "HEAD").strip()
    with pytest.raises(GuestError, match="no commit"):
        export_patch(guest, str(inside), base_commit="0" * 40)
    with pytest.raises(BadRequest):
        export_patch(guest, str(inside), base_commit="--output=/x")


NAMES = st.sampled_from(
    [
        b"a",
        b"a/x",
        b"b",
        b"dir",
        b"dir/sub",
        b"dir/a",
        b"dir/b",
        b"dir/sub/c",
        b"sp ace",
        b"new\nline",
        b'q"uote\\',
        b"caf\xe9",
        "ünï".encode(),
        b"-dash",
        b"x.o",
    ]
)
CONTENT = st.one_of(
    st.binary(max_size=40), st.text(st.characters(codec="utf-8"), max_size=40).map(str.encode), st.just(b"line\r\n" * 5), st.just(b"line\n" * 50)
)
ACTION = st.one_of(
    st.tuples(st.just("write"), NAMES, CONTENT),
    st.tuples(st.just("link"), NAMES, st.sampled_from([b"a", b"b", b"sp ace", b"../x", b"/etc/passwd", b"dir"])),
    st.tuples(st.just("remove"), NAMES, st.just(b"")),
    st.tuples(st.just("mode"), NAMES, st.just(b"")),
    st.tuples(st.just("commit"), NAMES, st.just(b"")),
    st.tuples(st.just("stage"), NAMES, st.just(b"")),
)


def make_way(place: bytes, name: bytes, *, clear: bool) -> None:
    """What is no directory where one must be goes."""
    parts = name.split(b"/")
    for count in range(1, len(parts)):
        path = os.path.join(place, *parts[:count])
        if clear and os.path.lexists(path) and (os.path.islink(path) or not os.path.isdir(path)):
            os.unlink(path)


def act(place: Path, kind: str, name: bytes, content: bytes) -> None:
    path = os.path.join(os.fsencode(place), name)
    parent = os.path.dirname(path)
    make_way(os.fsencode(place), name, clear=kind in ("write", "link"))
    if kind == "commit":
        commit(place)
    elif kind == "stage":
        git(place, "add", "-A")
    elif os.path.realpath(parent) != parent:
        return
    elif kind == "mode" and os.path.isfile(path) and not os.path.islink(path):
        os.chmod(path, 0o755 ^ os.stat(path).st_mode & 0o111)
        os.chmod(path, 0o644 | os.stat(path).st_mode & 0o111)
    elif kind in ("write", "link", "remove"):
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        elif os.path.lexists(path):
            os.unlink(path)
        if kind == "remove":
            return
        os.makedirs(parent, exist_ok=True)
        if kind == "link":
            os.symlink(content, path)
        else:
            Path(os.fsdecode(path)).write_bytes(content)


@given(st.lists(ACTION, max_size=8), st.lists(ACTION, max_size=4), st.lists(ACTION, max_size=8))
@example([("link", b"dir", b"a")], [], [("write", b"dir/a", b"in")])
@example([("write", b"dir/a", b"x")], [], [("link", b"dir", b"dir")])
@example([("write", b"a", b"x")], [("write", b"a/x", b"y")], [("write", b"a", b"z"), ("link", b"dir", b"a")])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_round_trip(
    tmp_path: Path, committed: list[tuple[str, bytes, bytes]], dirty: list[tuple[str, bytes, bytes]], edits: list[tuple[str, bytes, bytes]]
) -> None:
    """In, edited, out, applied: both trees are the same."""
    place = tmp_path / os.urandom(4).hex()
    project = new_repository(place / "project")
    write(project / ".gitignore", "*.o\n")
    for action in [*committed, ("commit", b"", b""), *dirty]:
        act(project, *action)
    guest = LocalGuest(place / "guest")
    guest.home.mkdir()
    inside = send(project, guest, include_untracked=True)
    sent = tree_of(inside)
    assert git(inside, "status", "--porcelain", "-z") == git(project, "status", "--porcelain", "-z")
    for action in edits:
        act(inside, *action)
    bring_back(project, guest, inside)
    ignored = {path for path in tree_of(project).keys() | tree_of(inside).keys() if path.endswith(b".o")} - sent.keys()
    assert {k: v for k, v in tree_of(project).items() if k not in ignored} == {k: v for k, v in tree_of(inside).items() if k not in ignored}
    shutil.rmtree(place)


def test_a_patch_that_does_not_fit_changes_nothing(repository: Path, guest: LocalGuest) -> None:
    inside = send(repository, guest)
    write(inside / "src/main.c", "guest\n")
    write(inside / "other", "guest\n")
    write(repository / "src/main.c", "host\n")
    patch = export_patch(guest, str(inside)).untrusted_content
    before = fingerprint(repository)
    with pytest.raises(PatchRefused, match="does not fit"):
        check_patch(open_repository(str(repository)), patch)
    assert fingerprint(repository) == before


def new_file(path: str, content: str = "evil", mode: str = "100644") -> bytes:
    return f"diff --git a/{path} b/{path}\nnew file mode {mode}\nindex 0000000..1111111\n--- /dev/null\n+++ b/{path}\n@@ -0,0 +1 @@\n+{content}\n".encode()


@pytest.mark.parametrize(
    "patch",
    [
        new_file("../outside"),
        new_file("/etc/outside"),
        new_file("a/../../outside"),
        new_file(".git/hooks/post-checkout", mode="100755"),
        new_file(".GIT/config"),
        new_file("sub/.git/config"),
        new_file(".git\u200c/config"),
        new_file("git~1/config"),
        new_file(".git./config"),
        new_file(".git::$INDEX_ALLOCATION/config"),
        new_file("out/file"),
        new_file("later", "/etc", "120000") + new_file("later/passwd"),
        new_file("module", "Subproject commit " + "1" * 40, "160000"),
        b"diff --git a/x b/x\nrename from empty\nrename to ../x\nsimilarity index 100%\n",
        b"diff --git a/empty b/.git/x\nsimilarity index 100%\ncopy from empty\ncopy to .git/x\n",
        b"diff --git a/bomb b/bomb\nnew file mode 100644\nindex 0000000..1111111\nGIT binary patch\nliteral 99999999999\nzcmV\n\n",
        b"not a patch at all\n",
    ],
)
def test_malicious_patches_are_refused(repository: Path, patch: bytes) -> None:
    (repository / "out").symlink_to(repository.parent)
    before = fingerprint(repository.parent)
    with pytest.raises(PatchRefused):
        check_patch(open_repository(str(repository)), patch)
    with pytest.raises(PatchRefused):
        apply_patch_anyway(repository, patch)
    assert fingerprint(repository.parent) == before


def apply_patch_anyway(repository: Path, patch: bytes) -> None:
    found = open_repository(str(repository))
    check_patch(found, patch)
    apply_patch(found, patch)


def test_fetch_brings_commits_and_the_dirty_tree(repository: Path, guest: LocalGuest) -> None:
    inside = send(repository, guest)
    write(inside / "src/main.c", "committed\n")
    made = commit(inside, "guest")
    git(inside, "branch", "side/line", "HEAD~1")
    write(inside / "untracked", "new\n")
    index, files = fingerprint(repository / ".git/index"), tree_of(repository)
    fetched = {one.ref: one.commit for one in fetch_commits(open_repository(str(repository)), guest, str(inside), "box")}
    assert fetched["refs/banger/box/main"] == made
    assert fetched.keys() == {"refs/banger/box/main", "refs/banger/box/side/line", "refs/banger/box/worktree"}
    assert git(repository, "show", "refs/banger/box/worktree:untracked") == "new\n"
    assert git(repository, "rev-parse", "refs/banger/box/worktree^").strip() == made
    assert (fingerprint(repository / ".git/index"), tree_of(repository)) == (index, files)
    git(repository, "fsck", "--strict")
    git(repository, "merge", "-q", "refs/banger/box/main")
    write(inside / "untracked", "newer\n")
    again = fetch_commits(open_repository(str(repository)), guest, str(inside), "box")
    assert [one.before for one in again if one.ref.endswith("worktree")] == [fetched["refs/banger/box/worktree"]]


def test_fetch_again_of_the_same_is_unchanged(repository: Path, guest: LocalGuest) -> None:
    inside = send(repository, guest)
    write(inside / "untracked", "new\n")
    first = fetch_commits(open_repository(str(repository)), guest, str(inside), "box")
    time.sleep(1.1)  # git counts seconds
    assert [(one.before, one.commit) for one in fetch_commits(open_repository(str(repository)), guest, str(inside), "box")] == [
        (one.commit, one.commit) for one in first
    ]


@pytest.mark.parametrize("name", ["worktree", "worktree/a"])
@pytest.mark.parametrize("fetched_before", [False, True])
def test_a_branch_with_our_name_is_fetched_like_any_other(repository: Path, guest: LocalGuest, name: str, fetched_before: bool) -> None:
    inside = send(repository, guest)
    write(inside / "untracked", "new\n")
    if fetched_before:
        fetch_commits(open_repository(str(repository)), guest, str(inside), "box")
    git(inside, "branch", name)
    fetched = {one.ref for one in fetch_commits(open_repository(str(repository)), guest, str(inside), "box")}
    assert fetched == {"refs/banger/box/main", f"refs/banger/box/{name}", "refs/banger/box.worktree"}
    assert git(repository, "show", "refs/banger/box.worktree:untracked") == "new\n"
    git(inside, "branch", "-D", name)
    fetched = {one.ref for one in fetch_commits(open_repository(str(repository)), guest, str(inside), "box")}
    assert fetched == {"refs/banger/box/main", "refs/banger/box.worktree" if "/" in name else "refs/banger/box/worktree"}


def test_a_broken_ref_in_the_guest_is_named(repository: Path, guest: LocalGuest) -> None:
    inside = send(repository, guest)
    head = git(inside, "rev-parse", "HEAD").strip()
    (inside / ".git/packed-refs").write_text(f"# pack-refs with: sorted\n{head} refs/heads/../x\n")
    with pytest.raises(GuestError, match=r"cannot work with the repository at .*refs/heads/\.\./x") as refused:
        fetch_commits(open_repository(str(repository)), guest, str(inside), "box")
    assert "git fsck" in refused.value.hint


def test_hints_name_only_options_that_there_are(repository: Path, guest: LocalGuest) -> None:
    plain = new_repository(guest.home / "other")
    commit(plain)
    with pytest.raises(GuestError) as refused:
        fetch_commits(open_repository(str(repository)), guest, str(plain), "box")
    assert "--base-commit" not in refused.value.hint
    with pytest.raises(GuestError) as refused:
        export_patch(guest, str(plain), may_compare=False)
    assert "--base-commit" not in refused.value.hint
    with pytest.raises(GuestError) as refused:
        export_patch(guest, str(plain))
    assert "--base-commit" in refused.value.hint


def test_fetch_of_a_detached_head(repository: Path, guest: LocalGuest) -> None:
    inside = send(repository, guest)
    git(inside, "checkout", "-q", "--detach")
    made = commit(inside, "lonely")
    fetched = {one.ref: one.commit for one in fetch_commits(open_repository(str(repository)), guest, str(inside), "box")}
    assert fetched["refs/banger/box/HEAD"] == made


@pytest.mark.parametrize("what", ["tools", "files"])
def test_without_git_the_way_back_is_a_copy(repository: Path, guest: LocalGuest, tmp_path: Path, what: str) -> None:
    inside = send(repository, guest, no_git=what == "files")
    if what == "tools":
        (tmp_path / "tools").mkdir()
        (tmp_path / "tools/sh").symlink_to("/bin/sh")
        guest.path = str(tmp_path / "tools")
    with pytest.raises(GuestError) as refused:
        export_patch(guest, str(inside))
    assert "vm cp" in refused.value.hint
    with pytest.raises(GuestError) as refused:
        fetch_commits(open_repository(str(repository)), guest, str(inside), "box")
    assert "vm cp" in refused.value.hint


class LyingGuest:
    """Answers with what it was given."""

    def __init__(self, answer: bytes, status: int = 0) -> None:
        self._answer = answer
        self._status = status

    def run(self, argv: Sequence[str], *, into: IO[bytes] | None = None, limit: int = OUTPUT_LIMIT) -> Output:
        if into is not None:
            into.write(self._answer)
            into.flush()
        return Output(self._status, self._answer, b"")

    def unpack(self, records: object, destination: str, *, uid: int, gid: int) -> None:
        raise AssertionError


def git_object(kind: bytes, content: bytes) -> tuple[bytes, str]:
    return zlib.compress(content), sha1(kind + b" %d\0" % len(content) + content).hexdigest()


def pack_of(*objects: tuple[int, bytes]) -> bytes:
    """A pack of whole objects: (type, content)."""
    parts = [b"PACK" + (2).to_bytes(4, "big") + len(objects).to_bytes(4, "big")]
    for kind, content in objects:
        size = len(content)
        head = (kind << 4) | (size & 15)
        size >>= 4
        encoded = bytearray()
        while size:
            encoded.append(head | 0x80)
            head, size = size & 0x7F, size >> 7
        encoded.append(head)
        parts.append(bytes(encoded) + zlib.compress(content))
    whole = b"".join(parts)
    return whole + sha1(whole).digest()


def commit_with_tree(entries: bytes, blob: bytes = b"evil\n") -> tuple[str, bytes]:
    """Name of a commit whose tree has these entries, and a pack of it."""
    _, tree = git_object(b"tree", entries)
    text = b"tree " + tree.encode() + b"\nauthor A <a@b> 0 +0000\ncommitter A <a@b> 0 +0000\n\nx\n"
    return git_object(b"commit", text)[1], pack_of((1, text), (2, entries), (3, blob))


BLOB = bytes.fromhex(git_object(b"blob", b"evil\n")[1])


@pytest.mark.parametrize("name", [b".git", b".GIT", b"..", b".", b"git~1", ".g\u200cit".encode(), b"a/b", b""])
def test_packs_with_malicious_names_are_refused(repository: Path, name: bytes) -> None:
    tip, pack = commit_with_tree(b"100644 " + name + b"\0" + BLOB)
    refuse(repository, f"{tip} refs/heads/main\n\n".encode() + pack, "git refuses")


def test_packs_with_malicious_submodules_are_refused(repository: Path) -> None:
    modules = b'[submodule "x"]\n\tpath = x\n\turl = --upload-pack=touch evil\n'
    blob = bytes.fromhex(git_object(b"blob", modules)[1])
    tip, pack = commit_with_tree(b"100644 .gitmodules\0" + blob, modules)
    refuse(repository, f"{tip} refs/heads/main\n\n".encode() + pack, "git refuses")


def test_a_sound_pack_is_taken(repository: Path) -> None:
    """The control of the tests around it."""
    tip, pack = commit_with_tree(b"100644 fine\0" + BLOB)
    fetched = fetch_commits(open_repository(str(repository)), LyingGuest(f"{tip} refs/heads/main\n\n".encode() + pack), "/root/repo", "box")
    assert fetched[0].commit == tip


@pytest.mark.parametrize(
    "head",
    [
        "{tip} refs/heads/../../HEAD",
        "{tip} refs/heads/a..b",
        "{tip} refs/tags/x",
        "{tip} HEAD\n{tip} HEAD",
        "{tip} refs/heads/x.lock",
        "zz refs/heads/main",
        "{tip}",
        "",
        "{tip} refs/heads/x y",
        "{tip} refs/heads/" + "x" * 300,
        "{none} refs/heads/main",
    ],
)
def test_lists_that_make_no_sense_are_refused(repository: Path, head: str) -> None:
    tip, pack = commit_with_tree(b"100644 fine\0" + BLOB)
    refuse(repository, head.format(tip=tip, none="1" * 40).encode() + b"\n\n" + pack)


def test_packs_that_are_broken_are_refused(repository: Path) -> None:
    tip, pack = commit_with_tree(b"100644 fine\0" + BLOB)
    head = f"{tip} refs/heads/main\n\n".encode()
    refuse(repository, head + pack[:-30], "git refuses")
    refuse(repository, head + pack[:40] + b"\xff" + pack[41:], "git refuses")
    refuse(repository, head, "git refuses")
    refuse(repository, b"", "no sense")
    text = b"tree " + b"2" * 40 + b"\nauthor A <a@b> 0 +0000\ncommitter A <a@b> 0 +0000\n\nx\n"
    refuse(repository, f"{git_object(b'commit', text)[1]} refs/heads/main\n\n".encode() + pack_of((1, text)))


def refuse(repository: Path, answer: bytes, why: str | None = None) -> None:
    before = fingerprint(repository)
    with pytest.raises(GuestError, match=why):
        fetch_commits(open_repository(str(repository)), LyingGuest(answer), "/root/repo", "box")
    assert fingerprint(repository) == before


def test_a_patch_that_is_no_patch(repository: Path) -> None:
    with pytest.raises(GuestError, match="no patch"):
        export_patch(LyingGuest(b"\x1b[2J"), "/root/repo")
    with pytest.raises(GuestError, match="status 3"):
        export_patch(LyingGuest(b"", 3), "/root/repo")


def test_hooks_of_the_host_do_not_run(repository: Path, guest: LocalGuest) -> None:
    evidence = repository.parent / "ran"
    for hook in ("reference-transaction", "post-checkout", "pre-auto-gc", "post-index-change"):
        write(repository / ".git/hooks" / hook, f"#!/bin/sh\ntouch '{evidence}'\n")
        (repository / ".git/hooks" / hook).chmod(0o755)
    git(repository, "config", "core.fsmonitor", f"touch '{evidence}'")
    inside = send(repository, guest)
    write(inside / "new")
    fetch_commits(open_repository(str(repository)), guest, str(inside), "box")
    bring_back(repository, guest, inside)
    assert not evidence.exists()
    assert subprocess.run(["git", "-C", repository, "-c", "core.fsmonitor=false", "status"], capture_output=True).returncode == 0
