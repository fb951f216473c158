"""``vm exec`` and ``vm job``: what is said when a command does not begin, or does not end well, against a scripted daemon."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from banger.cli.tools_script import with_tools
from banger.client import follow
from banger.guest.frames import FrameType
from tests.unit.cli.conftest import Shell
from tests.unit.cli.test_workspace import with_workspace
from tests.unit.client.fake_daemon import FakeDaemon, Guest, Reply
from tests.unit.client.scripts import says

NOT_STARTED = 2


def breaks_off(guest: Guest) -> None:
    guest.send(FrameType.OPENED)


@pytest.mark.parametrize(
    ("errno", "message", "status", "hint"),
    [
        (2, "chdir /nope: No such file or directory", 126, "--workdir"),
        (13, "chdir /root: Permission denied", 126, "--workdir"),
        (13, "exec /etc/passwd: Permission denied", 126, "check its mode"),
        (2, "exec nope: No such file or directory", 127, "in the guest's PATH"),
    ],
)
def test_why_a_command_did_not_begin(daemon: FakeDaemon, banger: Shell, errno: int, message: str, status: int, hint: str) -> None:
    daemon.streams["exec"] = says(kind=NOT_STARTED, number=errno, message=message)
    result = banger("vm", "exec", "box", "--", "nope")
    assert (result.status, result.err.splitlines()[0]) == (status, f"banger: {message}")
    assert hint in result.err.splitlines()[1]
    daemon.routes["POST /v1/vms/box/jobs"] = Reply({"id": "j", "exit_status": status, "message": message})
    assert banger("vm", "exec", "box", "-d", "--", "nope").err.splitlines()[:2] == result.err.splitlines()[:2]


@pytest.mark.parametrize("seconds", ["nan", "inf", "-inf", "0", "-1", "1e10", "x"])
def test_time_limits_that_are_none(banger: Shell, seconds: str) -> None:
    result = banger("vm", "exec", "box", "--timeout", seconds, "--", "true")
    assert result.status == 125 and "--timeout" in result.err
    if seconds not in ("0", "1e10"):  # which stop takes, or refuses for its own reason
        assert banger("vm", "stop", "box", "--timeout", seconds).status == 2


def test_a_job_is_listed_as_it_was_typed(daemon: FakeDaemon, banger: Shell) -> None:
    with_workspace(daemon)
    daemon.routes["POST /v1/vms/box/jobs"] = Reply({"id": "j", "pid": 7})
    assert banger("vm", "exec", "box", "-d", "--", "make", "-j2", "all").out == "j\n"
    asked = daemon.calls[-1].json
    assert asked["argv"][0] == "/bin/sh" and asked["label"] == "make -j2 all"


def test_a_daemon_that_hangs_up_is_banger_failing(daemon: FakeDaemon, banger: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "RECONNECT_SECONDS", 0)
    monkeypatch.setattr(follow, "_PAUSE_SECONDS", 0)
    daemon.streams["exec"] = breaks_off
    result = banger("vm", "exec", "box", "--", "make")
    assert result.status == 125 and "SIGHUP" in result.err and "vm exec -d" in result.err
    assert banger("vm", "run", "--rm", "--", "make").status == 125
    answers = [Reply({"token": "exec"}), Reply({"error": {"code": "guest_error", "message": "no agent"}}, status=503)] * 2
    daemon.routes["POST /v1/vms/box/jobs/j/output"] = lambda _: answers.pop(0)
    result = banger("vm", "job", "wait", "box", "j")
    assert result.status == 125 and "the job goes on" in result.err
    assert banger("vm", "job", "logs", "-f", "box", "j").status == 1


# -- the script that finds the tools -------------------------------------------------------------------------------------------------------------------


def run_with_tools(path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": f"{path}:/usr/bin:/bin", "HOME": str(path)}
    return subprocess.run(with_tools("/root/my repo", words), capture_output=True, text=True, env=environment, cwd=path, timeout=30)


@pytest.fixture(params=["without mise", "with mise"])
def tools(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A directory in PATH, with a stand-in for mise or not."""
    if request.param == "with mise":
        program(tmp_path / "mise", 'test "$1 $2" = "exec --" || exit 99\nshift 2\nexport TOOLS="$MISE_TRUSTED_CONFIG_PATHS"\nexec "$@"')
    return tmp_path


def program(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_words_reach_the_command(tools: Path) -> None:
    program(tools / "own", 'printf "%s|" "$TOOLS" "$@"; exit 7')
    expected = "/root/my repo|" if (tools / "mise").exists() else "|"
    for name in ("own", "./own", str(tools / "own")):
        done = run_with_tools(tools, name, "a b", "", "$HOME", "*")
        assert (done.returncode, done.stdout, done.stderr) == (7, f"{expected}a b||$HOME|*|", "")


@pytest.mark.parametrize(
    ("word", "status", "message", "hint"),
    [
        ("no-such-program", 127, "exec no-such-program: No such file or directory", "in the guest's PATH"),
        ("/no/such", 127, "exec /no/such: No such file or directory", "in the guest's PATH"),
        ("cd", 127, "exec cd: No such file or directory", "in the guest's PATH"),
        ("./plain", 126, "exec ./plain: Permission denied", "check its mode"),
    ],
)
def test_what_cannot_be_started_is_said_as_without_a_workspace(tools: Path, word: str, status: int, message: str, hint: str) -> None:
    (tools / "plain").write_text("text")
    done = run_with_tools(tools, word)
    assert (done.returncode, done.stdout) == (status, "")
    first, second = done.stderr.splitlines()
    assert first == f"banger: {message}" and second.startswith("hint: ") and hint in second
