"""``vm run``, ``vm create``, ``vm exec``, ``vm shell`` against a scripted daemon."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cli.conftest import Shell, record
from tests.unit.cli.conftest import detail as shown
from tests.unit.client.fake_daemon import Call, FakeDaemon, Reply, failure
from tests.unit.client.scripts import Recorder, cat, pours, says

BANGER = [sys.executable, "-m", "banger.cli.main"]
BOX = record()["id"]


def body_of(daemon: FakeDaemon, route: str) -> dict[str, object]:
    (call,) = (call for call in daemon.calls if f"{call.method} {call.path}" == route)
    body: dict[str, object] = call.json
    return body


def test_run_with_rm_returns_the_commands_own_output_and_status_and_leaves_nothing(daemon: FakeDaemon, banger: Shell) -> None:
    daemon.streams["exec"] = says(b"out\n", b"err\n", number=42)
    result = banger("vm", "run", "--rm", "--", "sh", "-c", "echo out; echo err >&2; exit 42")
    assert (result.status, result.out) == (42, "out\n")
    assert "err\n" in result.err
    assert "spec: 2 vcpu | 3072 MiB | 8G disk\n" in result.err
    assert "wait_for_guest" in result.err
    assert "still there" not in result.err
    create, execute = body_of(daemon, "POST /v1/vms"), body_of(daemon, f"POST /v1/vms/{BOX}/exec")
    assert create["lease"] == "lease-1"
    assert (create["vcpu_count"], create["memory_mib"], create["image"], create["wait"]) == (2, 3072, "debian-bookworm", "ready")
    assert execute["argv"] == ["sh", "-c", "echo out; echo err >&2; exit 42"]
    assert execute["tty"] is False
    assert daemon.paths()[-1] == f"DELETE /v1/vms/{BOX}"
    assert daemon.tokens == ["lease", "exec"]


def test_the_callers_logins_travel_with_the_request(daemon: FakeDaemon, banger: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon.streams["exec"] = says()
    monkeypatch.setenv("DOCKER_CONFIG", "/home/me/elsewhere")
    assert banger("vm", "run", "--image", "ghcr.io/acme/dev:1", "--", "true").status == 0
    assert body_of(daemon, "POST /v1/vms")["credentials"] == "/home/me/elsewhere/config.json"


def test_a_machine_whose_init_ends_says_so(daemon: FakeDaemon, banger: Shell) -> None:
    """The channel breaks a moment before the daemon has seen why."""
    why = "its init ended with status 3; the console ends with:\npanic"
    stopped = record(state="stopped", runtime={"last_stop_reason": why})
    daemon.routes[f"GET /v1/vms/{BOX}"] = Reply(shown("box", record=stopped, alive=False))
    daemon.streams["exec"] = lambda guest: None
    result = banger("vm", "run", "--image", "odd", "--", "true")
    assert result.status == 125
    assert f"box has stopped: {why}" in result.err


def test_options_reach_the_daemon_in_its_units(daemon: FakeDaemon, banger: Shell) -> None:
    daemon.streams["exec"] = says()
    words = "--name web --image alpine --vcpu 4 --memory 4GiB --disk-size 1G --system-overlay-size 512 --nat --wait booted --ttl 1h30m --idle 0".split()
    assert banger("vm", "run", *words, "--", "true").status == 0
    expected = {"name": "web", "image": "alpine", "vcpu_count": 4, "memory_mib": 4096, "work_disk_bytes": 1 << 30}
    expected |= {
        "system_overlay_bytes": 512 << 20,
        "nat": True,
        "wait": "booted",
        "lease": "",
        "start": True,
        "ttl": 5400.0,
        "idle": 0.0,
        "autostart": False,
        "publish": [],
        "credentials": "",
    }
    assert body_of(daemon, "POST /v1/vms") == expected


def test_without_rm_it_says_that_the_machine_is_still_there(daemon: FakeDaemon, banger: Shell) -> None:
    daemon.streams["exec"] = says(b"hi\n")
    result = banger("vm", "run", "--", "true")
    assert (result.status, result.out) == (0, "hi\n")
    assert "box is still there" in result.err
    assert "DELETE" not in " ".join(daemon.paths())


def test_detach_prints_the_name_or_the_record(daemon: FakeDaemon, banger: Shell) -> None:
    assert banger("vm", "run", "-d", "--name", "box").out == "box\n"
    result = banger("vm", "run", "-d", "--json")
    assert result.json["name"] == "box"
    assert [json.loads(line)["stage"] for line in result.err.splitlines()] == ["reserve_vm", "wait_for_guest"]
    assert daemon.tokens == []


def test_create(daemon: FakeDaemon, banger: Shell) -> None:
    assert banger("vm", "create", "--no-start").out == "box\n"
    assert body_of(daemon, "POST /v1/vms")["start"] is False


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("vm run -d --rm", "-d and --rm exclude each other"),
        ("vm run -d -- true", "-d takes no command"),
        ("vm run ./repo", "no such directory"),
        ("vm run uname -- true", "put a command after `--`"),
        ("vm run a b", "one directory at most"),
        ("vm run --branch x", "--branch needs a directory"),
        ("vm run --no-bootstrap --rm", "--no-bootstrap needs a directory"),
        ("vm run --rm --", "no command after `--`"),
        ("vm run --vcpu many -- true", "not a valid integer"),
        ("vm run --memory lots -- true", "'lots' is not a size"),
        ("vm run --ttl soon -- true", "'soon' is not a duration"),
        ("vm run --idle 30 -- true", "'30' is not a duration"),
        ("vm run --image= -- true", "bad image ''"),
        ("vm run -d --entrypoint sh", "-d runs nothing"),
        ("vm run --env =x -- true", "has no name"),
        ("vm run --wait forever -- true", "forever"),
        ("vm run --frobnicate -- true", "No such option"),
        ("vm exec box", "must come after `--`"),
        ("vm exec box uname", "must come after `--`"),
        ("vm exec", "Missing argument"),
        ("vm exec box --env =x -- true", "has no name"),
        ("vm shell box -- ls", "takes no command"),
    ],
)
def test_wrong_words_are_refused_before_anything_is_asked(daemon: FakeDaemon, banger: Shell, words: str, message: str) -> None:
    result = banger(*words.split())
    assert (result.status, result.out) == (125, "")
    assert result.err.startswith("banger: ")
    assert message in result.err
    assert "\nhint: " in result.err
    assert daemon.calls == []


def test_create_uses_2_for_wrong_words(daemon: FakeDaemon, banger: Shell) -> None:
    assert banger("vm", "create", "--vcpu", "many").status == 2
    assert banger("vm", "create", "--nope").status == 2
    assert banger("vm", "nope").status == 2
    assert daemon.calls == []


def test_limits_are_the_daemons_to_refuse_and_the_spec_line_waits_for_it(daemon: FakeDaemon, banger: Shell) -> None:
    daemon.routes["POST /v1/vms"] = failure(400, "bad_request", "vcpu must be between 1 and 64, not 0", op_id="op-cafecafecafe")
    result = banger("vm", "create", "--vcpu", "0", "--name", "Bad_Name", "--memory", "1M")
    assert result.status == 2
    assert "(op-cafecafecafe)" in result.err
    assert "spec:" not in result.err


def test_bytes_that_cannot_be_sent_are_refused_with_125(daemon: FakeDaemon, banger: Shell) -> None:
    for words in (["-e", "X=\udcff", "--", "true"], ["--cwd", "/\udcff", "--", "true"], ["--", "\udcff"]):
        result = banger("vm", "exec", "box", *words)
        assert result.status == 125
        assert "is not valid UTF-8" in result.err
        assert "internal error" not in result.err


def test_an_error_of_the_daemon_is_one_clear_line_with_a_hint_and_the_op_id(daemon: FakeDaemon, banger: Shell) -> None:
    daemon.routes["POST /v1/vms"] = failure(404, "not_found", "no image 'nix'", hint="banger image list --available", op_id="op-cafecafecafe")
    result = banger("vm", "run", "--rm", "--image", "nix", "--", "true")
    assert result.status == 125
    assert result.err.splitlines()[-3:] == ["banger: no image 'nix'", "hint: banger image list --available", "(op-cafecafecafe)"]


def operation(target: str, state: str = "failed") -> Reply:
    return Reply({"id": "op-0123456789ab", "kind": "vm.create", "target": target, "state": state, "stage": "", "started_at": 1.0, "updated_at": 1.0})


def detail(**more: Any) -> Reply:
    shown = {"record": record(**more), "alive": False, "pid": None, "directory": "/d", "console_log": "/c", "vmm_log": "/v"}
    return Reply(shown | {"overlay_allocated_bytes": 0, "work_allocated_bytes": 0})


def test_a_failed_start_under_rm_leaves_nothing(daemon: FakeDaemon, banger: Shell) -> None:
    daemon.routes["POST /v1/vms"] = Reply(lines=[{"done": True, "error": {"code": "guest_timeout", "message": "no hello", "vm": "box"}}])
    daemon.routes["GET /v1/operations/op-0123456789ab"] = operation("box")
    daemon.routes["GET /v1/vms/box"] = detail(remove=True, created_at=9e9)
    assert banger("vm", "run", "--rm", "--", "true").status == 125
    assert daemon.paths()[-1] == f"DELETE /v1/vms/{BOX}"


@pytest.mark.parametrize("theirs", [{"remove": True, "created_at": 1.0}, {"remove": False, "created_at": 9e9}], ids=["older", "kept"])
def test_a_refused_name_does_not_cost_its_owner_the_machine(daemon: FakeDaemon, banger: Shell, theirs: dict[str, Any]) -> None:
    daemon.routes["POST /v1/vms"] = Reply(lines=[{"done": True, "error": {"code": "already_exists", "message": "box exists", "vm": "box"}}])
    daemon.routes["GET /v1/operations/op-0123456789ab"] = operation("box")
    daemon.routes["GET /v1/vms/box"] = detail(**theirs)
    assert banger("vm", "run", "--rm", "--name", "box", "--", "true").status == 125
    assert not [path for path in daemon.paths() if path.startswith("DELETE")]


def test_a_command_that_cannot_start_is_explained(daemon: FakeDaemon, banger: Shell) -> None:
    daemon.streams["exec"] = says(kind=2, number=2, message="exec nope\x1b[31m: No such file or directory")
    result = banger("vm", "exec", "box", "--", "nope")
    assert result.status == 127
    said, hint, op_id = result.err.splitlines()
    assert said == "banger: exec nope\N{REPLACEMENT CHARACTER}[31m: No such file or directory"
    assert "guest's PATH" in hint
    assert op_id.startswith("(op-")


def test_exec_passes_environment_directory_user_and_words_unread(daemon: FakeDaemon, banger: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INHERITED", "yes")
    daemon.streams["exec"] = says()
    assert banger("vm", "exec", "box", "-e", "A=1=2", "-e", "INHERITED", "-e", "ABSENT", "-w", "/srv", "-u", "dev", "--", "ls", "--", "--json").status == 0
    body = body_of(daemon, "POST /v1/vms/box/exec")
    assert body["env"] == {"A": "1=2", "INHERITED": "yes"}
    assert (body["cwd"], body["user"], body["argv"]) == ("/srv", "dev", ["ls", "--", "--json"])


def test_exec_in_a_stopped_machine(daemon: FakeDaemon, banger: Shell) -> None:
    daemon.routes["POST /v1/vms/box/exec"] = failure(409, "not_running", "box is stopped", hint="banger vm start box")
    result = banger("vm", "exec", "box", "--", "true")
    assert (result.status, result.err) == (125, "banger: box is stopped\nhint: banger vm start box\n(op-0123456789ab)\n")


def test_a_failed_delete_does_not_change_the_status(daemon: FakeDaemon, banger: Shell) -> None:
    daemon.streams["exec"] = says(number=3)
    daemon.routes[f"DELETE /v1/vms/{BOX}"] = failure(500, "operation_failed", "the disk resists")
    result = banger("vm", "run", "--rm", "--", "true")
    assert result.status == 3
    assert "the disk resists" in result.err


# -- a process of its own: real descriptors and signals --------------------------------------------------------------------------------------------


def test_stdin_is_forwarded(daemon: FakeDaemon) -> None:
    daemon.streams["exec"] = cat
    done = subprocess.run([*BANGER, "vm", "run", "--rm", "--", "cat"], input=b"hello", capture_output=True, timeout=30)
    assert (done.returncode, done.stdout) == (0, b"hello")
    assert body_of(daemon, f"POST /v1/vms/{BOX}/exec")["stdin"] is True


def test_no_stdin(daemon: FakeDaemon) -> None:
    daemon.streams["exec"] = says(b"done")
    done = subprocess.run([*BANGER, "vm", "exec", "-n", "box", "--", "true"], input=b"", capture_output=True, timeout=30)
    assert (done.returncode, done.stdout) == (0, b"done")
    assert body_of(daemon, "POST /v1/vms/box/exec")["stdin"] is False


def test_a_reader_that_left_ends_it_and_the_machine_goes(daemon: FakeDaemon) -> None:
    daemon.streams["exec"] = pours(64 << 20)
    with subprocess.Popen([*BANGER, "vm", "run", "--rm", "--", "yes"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(10) == b"x" * 10
        process.stdout.close()
        assert process.wait(30) == 128 + signal.SIGPIPE
    assert daemon.paths()[-1] == f"DELETE /v1/vms/{BOX}"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_goes_to_the_command_and_the_machine_goes(daemon: FakeDaemon, number: signal.Signals) -> None:
    recorder = daemon.streams["exec"] = Recorder()
    with subprocess.Popen([*BANGER, "vm", "run", "--rm", "--", "sleep"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert process.stdout.read(7) == b"ready\r\n"
        process.send_signal(number)
        assert process.wait(30) == 128 + number
    assert recorder.signals == [number]
    assert daemon.paths()[-1] == f"DELETE /v1/vms/{BOX}"


def test_ctrl_c_while_it_is_made_cancels_it_and_leaves_nothing(daemon: FakeDaemon) -> None:
    cancelled = threading.Event()

    def cancel(_: Call) -> Reply:
        cancelled.set()
        return operation("box", "running")

    def boot(_: Call) -> Reply:
        def lines() -> object:
            yield {"stage": "wait_for_guest"}
            cancelled.wait(20)

        return Reply(lines=lines())  # type: ignore[arg-type]

    daemon.routes |= {
        "POST /v1/vms": boot,
        "DELETE /v1/operations/op-0123456789ab": cancel,
        "GET /v1/operations/op-0123456789ab": operation("box", "cancelled"),
        "GET /v1/operations/op-0123456789ab/events": Reply(lines=[{"done": True, "error": {"code": "cancelled", "message": "cancelled"}}]),
        "GET /v1/vms/box": detail(remove=True, created_at=9e9),
    }
    with subprocess.Popen([*BANGER, "vm", "run", "--rm", "--", "true"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        while b"wait_for_guest" not in process.stderr.readline():
            pass
        time.sleep(0.2)  # Python sees a signal that comes just before a system call only after it
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert process.stderr.read().strip() == b"banger: interrupted"
    assert cancelled.is_set()
    assert daemon.paths()[-1] == f"DELETE /v1/vms/{BOX}"


def test_a_killed_client_ends_its_lease_and_its_stream(daemon: FakeDaemon) -> None:
    recorder = daemon.streams["exec"] = Recorder()
    with subprocess.Popen([*BANGER, "vm", "run", "--rm", "--", "sleep"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        process.stdout.read(7)
        process.kill()
        process.wait(30)
    assert recorder.closed.wait(20)
    daemon.close()
    assert sorted(daemon.ended_streams) == ["exec", "lease"]


def test_closed_standard_descriptors_do_not_confuse_it(daemon: FakeDaemon, tmp_path: Path) -> None:
    daemon.streams["exec"] = says(b"out", number=7)
    done = subprocess.run(["sh", "-c", 'exec "$@" <&- >&-', "sh", *BANGER, "vm", "exec", "box", "--", "true"], stderr=subprocess.PIPE, timeout=30)
    assert (done.returncode, done.stderr) == (7, b"")


def test_json_is_accepted_everywhere() -> None:
    import click

    from banger.cli.main import root

    def leaves(command: click.Command, ctx: click.Context) -> list[click.Command]:
        if not isinstance(command, click.Group):
            return [command]
        children = [command.get_command(ctx, name) for name in command.list_commands(ctx)]
        return [leaf for child in children if child is not None for leaf in leaves(child, ctx)]

    with click.Context(root) as ctx:
        commands = leaves(root, ctx)
    assert len(commands) > 20
    for command in commands:
        assert any("--json" in param.opts for param in command.params), command.name
        assert command.help, command.name
