"""A repository in a real machine: prepare, work there, bring it back; and what `vm run DIRECTORY` refuses before it makes anything."""

from __future__ import annotations

import json
import os
import time
from hashlib import sha256
from pathlib import Path

import pytest

from tests.e2e.instance import Done, Instance
from tests.unit.workspace.repositories import commit, fingerprint, git, new_repository, tree_of, varied_repository, write

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return varied_repository(tmp_path / "project")


def refused(done: Done, *words: str) -> None:
    assert done.status == 125, done.err
    assert all(word in done.err for word in words), done.err


def test_there_and_back(instance: Instance, box: str, repository: Path) -> None:
    """Prepare, edit, commit, export, apply, fetch, and prepare again, in one machine."""
    before = fingerprint(repository / ".git")
    write(repository / "notes", "dirty\n")
    git(repository, "add", "notes")
    before = fingerprint(repository / ".git")
    record = instance.json("vm", "workspace", "prepare", box, str(repository))
    assert (record["guest_path"], record["head_commit"]) == ("/root/repo", git(repository, "rev-parse", "HEAD").strip())
    assert instance.ok("vm", "exec", box, "--", "pwd") == "/root/repo\n"
    assert instance.ok("vm", "exec", box, "--", "git", "status", "--porcelain") == "A  notes\n"
    check = "git fsck --strict 2>&1 | grep -v dangling; stat -c %U . .git/config bin/run"
    assert instance.ok("vm", "exec", box, "--", "sh", "-c", check).split() == ["root"] * 3
    assert instance.ok("vm", "workspace", "diff", box) == ""
    script = r"""
        set -e
        echo changed >src/main.c; git commit -qam "in the guest"
        printf 'a\0b\r\n' >binary; git add binary
        chmod 755 crlf.txt; rm data.bin; ln -s nowhere 'new link'; mkdir -p a/b; echo untracked >"a/b/new
line"; echo ignored >x.o
    """
    instance.ok("vm", "exec", box, "--", "bash", "-c", script)
    patch = instance.run("vm", "workspace", "export", box).raw
    assert b"+changed" in patch
    assert instance.ok("vm", "exec", box, "--", "git", "diff", "--cached", "--name-only").split() == ["binary"]
    instance.ok("vm", "workspace", "apply", box, "--yes")
    assert fingerprint(repository / ".git") == before
    assert (repository / "src/main.c").read_text() == "changed\n"
    assert (repository / "a/b/new\nline").read_text() == "untracked\n"
    assert (repository / "binary").read_bytes() == b"a\0b\r\n"
    assert not (repository / "data.bin").exists()
    assert os.access(repository / "crlf.txt", os.X_OK)
    assert os.readlink(repository / "new link") == "nowhere"
    fetched = {one["ref"]: one["commit"] for one in instance.json("vm", "workspace", "fetch", box)}
    assert git(repository, "log", "-1", "--format=%s", fetched[f"refs/banger/{box}/main"]).strip() == "in the guest"
    assert git(repository, "show", f"refs/banger/{box}/worktree:a/b/new\nline") == "untracked\n"
    again = instance.run("vm", "workspace", "apply", box, "--yes")
    assert again.status == 1
    assert "does not fit" in again.err


def test_exec_follows_the_workspace(instance: Instance, box: str, tmp_path: Path) -> None:
    project = new_repository(tmp_path / "follows")
    write(project / "file", "one\n")
    commit(project)
    instance.ok("vm", "workspace", "prepare", box, str(project), "--guest-path", "/srv/follows")
    assert instance.ok("vm", "exec", box, "--", "cat", "file") == "one\n"
    assert instance.run("vm", "exec", box, "--", "sh", "-c", "exit 42").status == 42
    assert instance.run("vm", "exec", box, "--", "no-such-program").status == 127
    assert instance.ok("vm", "exec", box, "--guest-path", "/tmp", "--", "pwd") == "/tmp\n"
    write(project / "file", "two\n", age=30)
    head = commit(project)
    done = instance.run("vm", "exec", box, "--", "cat", "file")
    assert (done.out, done.status) == ("one\n", 0)
    assert head[:12] in done.err
    assert "--auto-prepare" in done.err
    done = instance.run("vm", "exec", box, "--auto-prepare", "--", "sh", "-c", "cat file; git rev-parse HEAD; git status --porcelain")
    assert done.out.split() == ["two", head]
    assert "--auto-prepare" not in instance.run("vm", "exec", box, "--", "true").err
    done = instance.run("vm", "exec", box, "--timeout", "1", "--", "sleep", "60")
    assert done.status == 124
    assert "did not end within 1 s" in done.err


def test_links_of_the_guest_and_a_second_workspace(instance: Instance, box: str, tmp_path: Path) -> None:
    """Nothing is removed or written through a link, another kind of file comes home, and each workspace has its own source."""
    first, second = new_repository(tmp_path / "first"), new_repository(tmp_path / "second")
    for project in (first, second):
        write(project / "d/f", "one\n")
        write(project / "d/g", "one\n")
        write(project / "alone/f", "one\n")
        (project / "l").symlink_to("d")
        commit(project)
    instance.ok("vm", "workspace", "prepare", box, str(first), "--guest-path", "/srv/first", "-u", "root")
    instance.ok("vm", "exec", box, "--", "sh", "-c", "mv d e; ln -s e d")
    (first / "d/f").unlink()
    (first / "alone/f").unlink()
    instance.ok("vm", "workspace", "prepare", box, str(first), "--guest-path", "/srv/first", "-u", "root")
    assert instance.ok("vm", "exec", box, "--", "sh", "-c", "ls e; readlink d; ls").split() == ["f", "g", "e", "d", "e", "l"]
    write(first / "d/g", "two\n", age=30)
    assert "changed in" in instance.run("vm", "exec", box, "--", "true").err
    instance.ok("vm", "exec", box, "--auto-prepare", "--", "true")
    assert instance.ok("vm", "exec", box, "--", "cat", "d/g", "e/g") == "two\none\n"
    instance.ok("vm", "exec", box, "--", "sh", "-c", "rm l; mkdir l; echo in >l/f; rm -r e")
    instance.ok("vm", "workspace", "prepare", box, str(second), "--guest-path", "/srv/second", "-u", "root")
    instance.ok("vm", "workspace", "apply", box, "--yes", "--guest-path", "/srv/first")
    assert (first / "l/f").read_text() == "in\n"
    assert (second / "l").is_symlink()
    done = instance.run("vm", "workspace", "apply", box, "--yes", "--guest-path", "/srv/third")
    assert (done.status, f"{box} DIRECTORY" in done.err) == (2, True)
    refs = [instance.json("vm", "workspace", "fetch", box, "--guest-path", "/srv/first") for _ in range(2)]
    assert [one["commit"] for one in refs[0]] == [one["before"] for one in refs[1]]
    assert len(refs[0]) == 2
    assert instance.ok("vm", "exec", box, "-u", "nobody", "--", "id", "-un") == "nobody\n"


def test_another_user_and_plain_files(instance: Instance, box: str, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    write(plain / "dir/file", "plain\n")
    instance.ok("vm", "exec", box, "-u", "root", "--guest-path", "/", "--", "useradd", "-m", "dev")
    record = instance.json("vm", "workspace", "prepare", box, str(plain), "--no-git", "--user", "dev", "--guest-path", "work")
    assert record["guest_path"] == "/home/dev/work"
    assert instance.ok("vm", "exec", box, "--", "sh", "-c", "id -un; pwd; stat -c %U:%G dir/file; cat dir/file").split() == [
        "dev", "/home/dev/work", "dev:dev", "plain",
    ]  # fmt: skip
    done = instance.run("vm", "workspace", "export", box)
    assert done.status == 1
    assert "vm cp" in done.err


def test_a_full_disk_and_a_killed_client_leave_no_half_workspace(instance: Instance, box: str, tmp_path: Path) -> None:
    project = new_repository(tmp_path / "large")
    write(project / "large", os.urandom(30_000_000))
    commit(project)
    before = fingerprint(project)
    instance.ok("vm", "exec", box, "-u", "root", "--guest-path", "/", "--", "sh", "-c", "mkdir -p /srv/small && mount -t tmpfs -o size=8m small /srv/small")
    done = instance.run("vm", "workspace", "prepare", box, str(project), "--guest-path", "/srv/small/repo", "-u", "root")
    assert done.status == 1
    assert "space" in done.err
    with instance.started("vm", "workspace", "prepare", box, str(project), "--guest-path", "/srv/killed", "-u", "root") as process:
        time.sleep(1.2)
        process.kill()
    assert fingerprint(project) == before
    instance.ok("vm", "workspace", "prepare", box, str(project), "--guest-path", "/srv/killed", "-u", "root")
    said = instance.ok("vm", "exec", box, "--", "sh", "-c", "git status --porcelain; sha256sum large | cut -c 1-64")
    assert said.strip() == sha256((project / "large").read_bytes()).hexdigest()
    instance.ok("vm", "exec", box, "-u", "root", "--guest-path", "/", "--", "umount", "/srv/small")


def test_an_image_without_git(instance: Instance, box: str, repository: Path) -> None:
    instance.ok("vm", "exec", box, "-u", "root", "--guest-path", "/", "--", "mv", "/usr/bin/git", "/usr/bin/hidden")
    try:
        instance.ok("vm", "workspace", "prepare", box, str(repository), "--guest-path", "/srv/bare", "-u", "root")
        assert instance.ok("vm", "exec", box, "--", "/usr/bin/hidden", "status", "--porcelain") == ""
        done = instance.run("vm", "workspace", "fetch", box)
        assert done.status == 1
        assert "no git in this machine" in done.err
        assert "vm cp" in done.err
    finally:
        instance.ok("vm", "exec", box, "-u", "root", "--guest-path", "/", "--", "mv", "/usr/bin/hidden", "/usr/bin/git")


def test_run_in_a_directory(instance: Instance, repository: Path) -> None:
    """The machine of --rm sees the tree as it is here, and the status is the command's."""
    write(repository / "untracked")
    before = fingerprint(repository)
    script = "pwd; echo $WORD; ls ..; git status --porcelain; exit 7"
    done = instance.run("vm", "run", "--rm", str(repository), "-e", "WORD=x", "-w", "src", "--", "sh", "-c", script)
    assert done.status == 7, done.err
    assert done.out.split("\n")[:2] == ["/root/repo/src", "x"]
    assert "untracked" not in done.out
    assert "1 untracked file is not sent" in done.err
    assert fingerprint(repository) == before


def test_refusals_come_before_anything_is_made(instance: Instance, repository: Path, tmp_path: Path) -> None:
    machines = instance.json("vm", "list")

    def run(*words: str) -> Done:
        return instance.run("vm", "run", *words)

    project = str(repository)
    refused(run("--branch", "x", "--", "true"), "--branch", "directory")
    refused(run("--include-untracked"), "directory")
    refused(run(project, "--from", "HEAD~1"), "--from needs --branch")
    refused(run(project, "--branch", "x", "--from", "nope"), "no commit 'nope'")
    refused(run(project, "--branch", "a..b"), "not a name for a branch")
    refused(run(project, "-d", "--rm"), "-d and --rm")
    refused(run(project, "-d", "--", "true"), "-d takes no command")
    refused(run(str(tmp_path / "missing")), "no such directory")
    refused(run(str(tmp_path)), "not in a git repository", "--no-git")
    refused(run(str(new_repository(tmp_path / "unborn"))), "no commits", "main")
    git(repository, "clone", "-q", "--bare", ".", str(tmp_path / "bare.git"))
    refused(run(str(tmp_path / "bare.git")), "bare")
    write(repository / ".mise.toml", "[tools]\n")
    git(repository, "add", ".mise.toml")
    refused(run(project, "--", "true"), ".mise.toml", "--nat", "--no-bootstrap")
    assert instance.json("vm", "list") == machines


def test_dry_run_makes_nothing_and_needs_no_daemon(fresh: Instance, repository: Path) -> None:
    shown = json.loads(fresh.ok("vm", "run", str(repository), "--dry-run", "--json"))
    assert shown["mode"] == "shallow"
    assert "src/main.c" in shown["files"]
    assert "src/main.o" not in shown["files"]
    assert "mode: full, main" in fresh.ok("vm", "run", str(repository), "--dry-run", "--full")
    assert fresh.daemon_pid() is None


def test_detached_with_tools(instance: Instance, tmp_path: Path) -> None:
    project = new_repository(tmp_path / "tools")
    write(project / "go.mod", "module x\n\ngo 1.22\n")
    commit(project)
    name = instance.ok("vm", "run", "-d", "--nat", str(project)).strip()
    try:
        assert "mise is not in this image" in instance.ok("vm", "logs", "--tooling", name)
        assert instance.ok("vm", "exec", name, "--", "ls") == "go.mod\n"
        assert tree_of(project).keys() == {b"go.mod"}
    finally:
        instance.ok("vm", "delete", name)
