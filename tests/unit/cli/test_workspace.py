"""Workspaces on the command line: where commands begin, what is refused, and that applying needs consent."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from banger.host.paths import Layout
from banger.workspace.source import Options, look_at
from banger.workspace.state import Sent, SentStates
from tests.unit.cli.conftest import Shell, detail, record
from tests.unit.client.fake_daemon import FakeDaemon, Reply
from tests.unit.client.scripts import Recorder, says
from tests.unit.workspace.repositories import commit, fingerprint, git, new_repository, write

BOX = record()["id"]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    place = new_repository(tmp_path / "project")
    write(place / "file", "one\n")
    commit(place)
    return place


def with_workspace(daemon: FakeDaemon, **workspace: Any) -> None:
    """``box`` has a workspace."""
    noted = {"id": "1" * 32, "source_path": "/nowhere", "guest_path": "/root/repo", "mode": "shallow", "head_commit": "2" * 40} | workspace
    shown = record() | {"runtime": {"workspace": noted}}
    daemon.routes["GET /v1/vms/box"] = daemon.routes[f"GET /v1/vms/{BOX}"] = Reply(detail(record=shown))


def executed(daemon: FakeDaemon) -> Any:
    return next(call.json for call in daemon.calls if call.path.endswith("/exec"))


def test_exec_begins_in_the_workspace_with_its_tools(daemon: FakeDaemon, banger: Shell) -> None:
    daemon.streams["exec"] = says(number=3)
    with_workspace(daemon, user="dev")
    assert banger("vm", "exec", "box", "--cwd", "sub", "--", "make", "a b").status == 3
    asked = executed(daemon)
    assert (asked["cwd"], asked["user"]) == ("/root/repo/sub", "dev")
    assert asked["argv"][0] == "/bin/sh"
    assert "mise" in asked["argv"][2]
    assert asked["argv"][-2:] == ["make", "a b"]


def test_exec_without_a_shell_in_the_guest_is_plain(daemon: FakeDaemon, banger: Shell) -> None:
    daemon.streams["exec"] = says()
    with_workspace(daemon, shell=False)
    banger("vm", "exec", "box", "-u", "root", "--guest-path", "/srv", "--", "/bin/true")
    assert executed(daemon) == executed(daemon) | {"argv": ["/bin/true"], "cwd": "/srv", "user": "root"}


def test_a_source_that_moved_on_is_a_warning(daemon: FakeDaemon, banger: Shell, repository: Path) -> None:
    daemon.streams["exec"] = says()
    with_workspace(daemon, source_path=str(repository))
    assert "--auto-prepare" in banger("vm", "exec", "box", "--", "true").err
    with_workspace(daemon, source_path=str(repository), head_commit=git(repository, "rev-parse", "HEAD").strip())
    assert banger("vm", "exec", "box", "--", "true").err == ""


def test_auto_prepare_needs_a_source(daemon: FakeDaemon, banger: Shell) -> None:
    result = banger("vm", "exec", "box", "--auto-prepare", "--", "true")
    assert result.status == 125
    assert "no workspace" in result.err


def test_a_time_limit_ends_the_command(daemon: FakeDaemon, banger: Shell) -> None:
    command = daemon.streams["exec"] = Recorder()
    result = banger("vm", "exec", "box", "--timeout", "0.3", "--", "sleep", "60")
    assert (result.status, command.signals) == (124, [15])
    assert "did not end within 0.3 s" in result.err


def test_tools_need_a_network(daemon: FakeDaemon, banger: Shell, repository: Path) -> None:
    write(repository / ".tool-versions", "node 20\n")
    git(repository, "add", ".tool-versions")
    result = banger("vm", "run", str(repository), "--rm", "--", "true")
    assert result.status == 125
    assert ".tool-versions" in result.err
    assert "--nat" in result.err
    assert "--no-bootstrap" in result.err
    assert daemon.calls == []


def test_dry_run_asks_nobody(daemon: FakeDaemon, banger: Shell, repository: Path) -> None:
    write(repository / "untracked")
    shown = banger("vm", "run", str(repository), "--dry-run")
    assert shown.out.splitlines()[0].startswith("mode: shallow, main at ")
    assert shown.out.splitlines()[2:] == ["file"]
    assert "--include-untracked" in shown.err
    listed = json.loads(banger("vm", "workspace", "prepare", "box", str(repository), "--dry-run", "--include-untracked", "--json").out)
    assert listed["files"] == ["file", "untracked"]
    assert daemon.calls == []


PATCH = b"diff --git a/file b/file\nindex 5626abf..814f4a4 100644\n--- a/file\n+++ b/file\n@@ -1 +1 @@\n-one\n+two\n"


def test_apply_wants_consent(daemon: FakeDaemon, banger: Shell, repository: Path) -> None:
    daemon.streams["exec"] = says(b"3" * 40 + b"\n" + PATCH)
    daemon.routes[f"POST /v1/vms/{BOX}/exec"] = Reply({"token": "exec"})
    with_workspace(daemon, source_path=str(repository))
    before = fingerprint(repository / ".git")
    refused = banger("vm", "workspace", "apply", "box")
    assert refused.status == 2
    assert "--yes" in refused.err
    assert (repository / "file").read_text() == "one\n"
    assert "+1 -1  file" in banger("vm", "workspace", "apply", "box", "--yes").err
    assert (repository / "file").read_text() == "two\n"
    assert banger("vm", "workspace", "apply", "box", "--yes").status == 1
    assert fingerprint(repository / ".git") == before


def test_diff_and_export_give_the_bytes(daemon: FakeDaemon, banger: Shell, tmp_path: Path) -> None:
    daemon.streams["exec"] = says(b"3" * 40 + b"\n" + PATCH)
    with_workspace(daemon)
    assert banger("vm", "workspace", "diff", "box").out.encode() == PATCH
    summary = banger("vm", "workspace", "export", "box", "-o", str(tmp_path / "p"), "--json").json
    assert summary["changed_files"] == 1
    assert (tmp_path / "p").read_bytes() == PATCH
    assert banger("vm", "workspace", "export", "box", "-o", str(tmp_path / "missing/p")).status == 1


def test_without_a_workspace_there_is_nothing_to_bring_back(daemon: FakeDaemon, banger: Shell) -> None:
    for verb in ("diff", "export", "fetch", "apply"):
        result = banger("vm", "workspace", verb, "box")
        assert result.status == 1
        assert "has no workspace" in result.err
    assert "no tools were installed" in banger("vm", "logs", "--tooling", "box").err


def test_another_user_begins_in_his_home(daemon: FakeDaemon, banger: Shell) -> None:
    """The workspace of root is closed to him."""
    daemon.streams["exec"] = says()
    with_workspace(daemon)
    banger("vm", "exec", "box", "-u", "nobody", "--", "id")
    assert executed(daemon) == executed(daemon) | {"argv": ["id"], "user": "nobody"}
    assert not executed(daemon).get("cwd")


@pytest.mark.parametrize(
    ("words", "cwd"), [(("-u", "0"), "/root/repo"), (("-u", "dev", "-w", "sub"), "/root/repo/sub"), (("-u", "dev", "--guest-path", "/srv"), "/srv")]
)
def test_a_directory_that_was_named_holds_for_every_user(daemon: FakeDaemon, banger: Shell, words: tuple[str, ...], cwd: str) -> None:
    daemon.streams["exec"] = says()
    with_workspace(daemon)
    banger("vm", "exec", "box", *words, "--", "id")
    assert executed(daemon)["cwd"] == cwd


def remember(home: Path, guest_path: str, repository: Path, **more: Any) -> Sent:
    """What a prepare of ``repository`` at ``guest_path`` of ``box`` leaves on this host."""
    source = look_at(str(repository), Options())
    sent = Sent(
        id="1" * 32, root=str(repository), full=False, wanted="", branch="", commits=frozenset(), shallow=frozenset(), tips=frozenset(), blobs=frozenset(),
        index="", files=source.files, trees={}, **more,
    )  # fmt: skip
    SentStates(Layout.from_environment().workspace_cache).save(BOX, guest_path, sent)
    return sent


def test_a_changed_file_is_a_warning(daemon: FakeDaemon, banger: Shell, home: Path, repository: Path) -> None:
    daemon.streams["exec"] = says()
    with_workspace(daemon, source_path=str(repository), head_commit=git(repository, "rev-parse", "HEAD").strip())
    remember(home, "/root/repo", repository)
    assert banger("vm", "exec", "box", "--", "true").err == ""
    write(repository / "file", "edited\n", age=30)
    assert "1 file of the workspace changed in" in banger("vm", "exec", "box", "--", "true").err
    with_workspace(daemon, source_path=str(repository), head_commit=git(repository, "rev-parse", "HEAD").strip(), id="9" * 32)
    assert banger("vm", "exec", "box", "--", "true").err == "", "what is remembered is of another prepare"


def test_each_guest_path_has_its_own_source(daemon: FakeDaemon, banger: Shell, home: Path, repository: Path, tmp_path: Path) -> None:
    """The one that was prepared last is no answer for the others."""
    last = new_repository(tmp_path / "last")
    write(last / "file", "one\n")
    commit(last)
    daemon.streams["exec"] = says(b"3" * 40 + b"\n" + PATCH)
    daemon.routes[f"POST /v1/vms/{BOX}/exec"] = Reply({"token": "exec"})
    with_workspace(daemon, source_path=str(last), user="dev")
    for verb in ("apply", "fetch"):
        refused = banger("vm", "workspace", verb, "box", "--guest-path", "/srv/other")
        assert refused.status == 2
        assert "/srv/other" in refused.err
        assert "box DIRECTORY" in refused.err
    remember(home, "/srv/other", repository, user="ann")
    assert banger("vm", "workspace", "apply", "box", "--yes", "--guest-path", "/srv//other/").status == 0
    assert executed(daemon)["user"] == "ann"
    assert ((repository / "file").read_text(), (last / "file").read_text()) == ("two\n", "one\n")
    assert banger("vm", "workspace", "apply", "box", str(last), "--yes", "--guest-path", "/srv/unknown").status == 0
    assert (last / "file").read_text() == "two\n"


def test_names_from_the_guest_stay_on_their_line(daemon: FakeDaemon, banger: Shell, repository: Path) -> None:
    name = '"b/x\\n  +1 -1  harmless"'
    patch = f"diff --git {name.replace('b/', 'a/')} {name}\nnew file mode 100644\n--- /dev/null\n+++ {name}\n@@ -0,0 +1 @@\n+x\n"
    daemon.streams["exec"] = says(b"3" * 40 + b"\n" + patch.encode())
    daemon.routes[f"POST /v1/vms/{BOX}/exec"] = Reply({"token": "exec"})
    with_workspace(daemon, source_path=str(repository))
    shown = banger("vm", "workspace", "apply", "box", "--yes").err
    assert "+1 -0  x\\n  +1 -1  harmless\n" in shown


def test_no_is_an_answer(daemon: FakeDaemon, banger: Shell, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon.streams["exec"] = says(b"3" * 40 + b"\n" + PATCH)
    daemon.routes[f"POST /v1/vms/{BOX}/exec"] = Reply({"token": "exec"})
    with_workspace(daemon, source_path=str(repository))
    answers = StringIO("n\n")
    monkeypatch.setattr(answers, "isatty", lambda: True)
    monkeypatch.setattr("sys.stdin", answers)
    result = banger("vm", "workspace", "apply", "box")
    assert (result.status, "not applied" in result.err, "interrupted" in result.err) == (1, True, False)
    assert (repository / "file").read_text() == "one\n"
