"""Every verb that is not a session: lists, details, changes of several machines, images, kernels, the daemon, doctor, completion."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from banger.client import start as start_module
from banger.host import sockets
from tests.unit.cli.conftest import Shell, record
from tests.unit.client.fake_daemon import Call, FakeDaemon, Reply, failure, running
from tests.unit.client.samples import STATUS

IMAGE = {
    "id": "2" * 32,
    "name": "debian-bookworm",
    "source": "recipe:debian-bookworm",
    "path": "/i",
    "digest": "sha256:ab",
    "size_bytes": 512 << 20,
    "kernel_name": "debian-cloud",
    "created_at": 1.0,
}
KERNEL = {
    "id": "3" * 32,
    "name": "debian-cloud",
    "source": "apt",
    "path": "/k",
    "version": "6.1.0-40-cloud-amd64",
    "digest": "sha256:cd",
    "size_bytes": 40 << 20,
    "created_at": 1.0,
}


def test_list_is_aligned(daemon: FakeDaemon, banger: Shell) -> None:
    daemon.routes["GET /v1/vms"] = Reply([record("a", 0x1 << 124), record("a-longer-name", 0x2 << 124, state="stopped")])
    head, first, second = banger("vm", "list").out.splitlines()
    assert head.split() == ["ID", "NAME", "STATE", "IMAGE", "VCPU", "MEM", "DISK", "CREATED"]
    assert first.split()[:7] == ["100000000000", "a", "running", "debian-bookworm", "2", "2G", "8G"]
    assert {line.index(word) for line, word in ((head, "STATE"), (first, "running"), (second, "stopped"))} == {head.index("STATE")}
    assert banger("ps").out == banger("vm", "ls").out == banger("vm", "list").out


def test_list_says_why_machines_do_not_run(daemon: FakeDaemon, banger: Shell) -> None:
    killed = record("killed", 1, state="stopped", runtime={"last_stop_reason": "its VMM ended by itself: signal 9"})
    broken = record("broken", 2, state="error", runtime={"last_error": f"{'x' * 80}\nand more"})
    cut = record("cut", 4, runtime={"last_error": "its tap is gone"})
    daemon.routes["GET /v1/vms"] = Reply([record("up", 3, runtime={"last_stop_reason": "by `vm stop`"}), killed, broken, cut])
    head, up, *others = banger("vm", "list").out.splitlines()
    assert head.split()[-1] == "NOTE"
    assert up.endswith(" ago")
    assert [line[head.index("NOTE") :] for line in others] == ["its VMM ended by itself: signal 9", f"{'x' * 57}...", "its tap is gone"]


@pytest.mark.parametrize(
    ("state", "network", "nat", "shown"),
    [
        ("running", "passt", True, "passt"),
        ("running", "passt", False, "passt, cut off (--no-nat)"),
        ("stopped", "passt", False, "none"),
        ("stopped", "none", True, "nat"),
    ],
)
def test_show_says_what_network_there_is(daemon: FakeDaemon, banger: Shell, state: str, network: str, nat: bool, shown: str) -> None:
    one = record(state=state, runtime={"network": network})
    one["spec"] = one["spec"] | {"nat": nat}
    detail = {"record": one, "alive": state == "running", "pid": None, "directory": "/d", "console_log": "/c", "vmm_log": "/v"}
    daemon.routes["GET /v1/vms/box"] = Reply(detail | {"overlay_allocated_bytes": 0, "work_allocated_bytes": 0})
    assert next(line.split(None, 1)[1] for line in banger("vm", "show", "box").out.splitlines() if line.startswith("network")) == shown


def test_errors_as_json(daemon: FakeDaemon, banger: Shell) -> None:
    daemon.routes["GET /v1/vms/box"] = failure(404, "not_found", "no machine 'box'")
    result = banger("vm", "show", "box", "--json")
    assert (result.status, result.out) == (1, "")
    body = json.loads(result.err)["error"]
    assert (body["code"], body["message"], body["op_id"]) == ("not_found", "no machine 'box'", "op-0123456789ab")
    assert set(body) >= {"code", "message", "hint", "op_id"}


@pytest.mark.parametrize(("words", "status"), [("vm show --json", 2), ("vm run --json --wrong -- true", 125), ("vm create --json --memory much", 2)])
def test_wrong_words_as_json(daemon: FakeDaemon, banger: Shell, words: str, status: int) -> None:
    result = banger(*words.split())
    assert result.status == status
    assert json.loads(result.err)["error"]["code"] == "bad_request"


def test_json_after_the_double_dash_is_the_commands_own(daemon: FakeDaemon, banger: Shell) -> None:
    result = banger("vm", "run", "--wrong", "--", "ls", "--json")
    assert result.status == 125
    assert result.err.startswith("banger: ")


def test_something_else_on_the_socket_is_named(home: Path, banger: Shell) -> None:
    (home / "run").mkdir(parents=True, mode=0o700)
    with sockets.listen(home / "run/bangerd.sock") as listener:

        def answer() -> None:
            for _ in range(2):
                peer, _ = listener.accept()
                with peer:
                    peer.recv(4096)
                    peer.sendall(b"220 smtp.example.org ESMTP\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        status, stop = banger("daemon", "status"), banger("daemon", "stop")
        thread.join()
    for result in (status, stop):
        assert (result.status, result.out) == (1, "")
        assert "what answers on the socket is not bangerd: " in result.err
        assert f"(pid {os.getpid()})" in result.err


def test_list_quiet_running_and_json(daemon: FakeDaemon, banger: Shell) -> None:
    daemon.routes["GET /v1/vms"] = Reply([record("a", 0x1 << 124), record("b", 0x2 << 124, state="stopped")])
    assert banger("vm", "list", "-q").out == "100000000000\n200000000000\n"
    assert banger("vm", "list", "-q", "--running").out == "100000000000\n"
    assert [one["name"] for one in banger("ps", "--json").json] == ["a", "b"]
    daemon.routes["GET /v1/vms"] = Reply([])
    assert banger("vm", "list", "-q").out == ""
    assert banger("vm", "list").out.split()[0] == "ID"


def test_show(daemon: FakeDaemon, banger: Shell) -> None:
    shown = {"record": record(runtime={"last_error": "it\x1b[2Jdied"}), "alive": True, "pid": 77, "directory": "/d", "console_log": "/c", "vmm_log": "/v"}
    daemon.routes["GET /v1/vms/box"] = Reply(shown | {"overlay_allocated_bytes": 1 << 20, "work_allocated_bytes": 0, "guest_kernel": "6.1"})
    out = banger("vm", "show", "box").out
    assert "name            box\n" in out
    assert "system overlay  8G (1M used)\n" in out
    assert "last error      it\N{REPLACEMENT CHARACTER}[2Jdied\n" in out
    assert banger("vm", "show", "box", "--json").json["pid"] == 77


def done(call: Call) -> Reply:
    name = call.path.split("/")[3]
    return Reply(lines=[{"stage": "work"}, {"done": True, "result": record(name)}])


def test_the_good_ones_succeed_when_others_fail_in_the_order_given(daemon: FakeDaemon, banger: Shell) -> None:
    both = threading.Barrier(2, timeout=20)
    one, two = record("one", 0x1 << 124), record("two", 0x2 << 124)
    daemon.routes["GET /v1/vms"] = Reply([one, two])

    def stop(call: Call) -> Reply:
        both.wait()  # only passes when both are under way at once
        return Reply(lines=[{"done": True, "result": one if one["id"] in call.path else two}])

    daemon.routes |= {f"POST /v1/vms/{one['id']}/stop": stop, f"POST /v1/vms/{two['id']}/stop": stop}
    daemon.routes["POST /v1/vms/ghost/stop"] = failure(404, "not_found", "no machine 'ghost'")
    result = banger("vm", "stop", "--timeout", "3", "two", "ghost", "one", "two", "1000")
    assert (result.status, result.out) == (1, "two\none\n")
    assert result.err == "banger: no machine 'ghost'\n(op-0123456789ab)\n"
    stops = [call for call in daemon.calls if call.path.endswith("/stop")]
    assert len(stops) == 3
    assert {call.json["timeout"] for call in stops} == {3.0}


def test_a_batch_as_json(daemon: FakeDaemon, banger: Shell) -> None:
    daemon.routes["DELETE /v1/vms/box"] = Reply(lines=[{"done": True, "result": {"id": "1", "name": "box"}}])
    assert banger("vm", "rm", "box", "--json").json == [{"ref": "box", "result": {"id": "1", "name": "box"}}]
    daemon.routes["DELETE /v1/vms/box"] = failure(404, "not_found", "no machine 'box'")
    result = banger("vm", "delete", "box", "--json")
    assert result.status == 1
    assert result.json[0]["error"]["code"] == "not_found"


def test_wrong_words_have_one_status(daemon: FakeDaemon, banger: Shell) -> None:
    ambiguous = failure(400, "bad_request", "'0' is ambiguous")
    daemon.routes |= {"GET /v1/vms/0": ambiguous, "DELETE /v1/vms/0": ambiguous, "GET /v1/vms": Reply([])}
    assert banger("vm", "show", "0").status == 2
    assert banger("vm", "delete", "0").status == 2
    daemon.routes["DELETE /v1/vms/ghost"] = failure(404, "not_found", "no machine 'ghost'")
    assert banger("vm", "delete", "0", "ghost").status == 1


def test_an_empty_name_is_not_any_name(daemon: FakeDaemon, banger: Shell) -> None:
    result = banger("vm", "create", "--name", "")
    assert (result.status, daemon.calls) == (2, [])
    assert "bad name ''" in result.err


def test_a_log_that_is_not_there_yet(daemon: FakeDaemon, banger: Shell) -> None:
    daemon.routes["GET /v1/vms/box/logs"] = Reply({"text": "", "next_offset": 0, "path": "/x/console.log", "exists": False})
    result = banger("vm", "logs", "box")
    assert (result.status, result.out, result.err) == (0, "", "no such log yet: /x/console.log is made when the machine is started\n")


@pytest.mark.parametrize(
    ("words", "path", "body"),
    [
        ("start box --wait booted", "POST /v1/vms/box/start", {"wait": "booted"}),
        ("restart box", "POST /v1/vms/box/restart", {"wait": "ready"}),
        ("kill box --signal sigkill", "POST /v1/vms/box/kill", {"signal": "KILL"}),
        ("stop box", "POST /v1/vms/box/stop", {"timeout": 15.0}),
        ("delete box", "DELETE /v1/vms/box", None),
    ],
)
def test_changes(daemon: FakeDaemon, banger: Shell, words: str, path: str, body: object) -> None:
    daemon.routes[path] = done if body else Reply(lines=[{"done": True, "result": {"id": "1", "name": "box"}}])
    result = banger("vm", *words.split())
    assert (result.status, result.out) == (0, "box\n")
    assert daemon.calls[-1].json == body


def test_warnings_are_always_shown(daemon: FakeDaemon, banger: Shell) -> None:
    warning = {"stage": "network", "message": "passt is missing", "warning": True}
    daemon.routes["POST /v1/vms/box/start"] = Reply(lines=[warning, {"done": True, "result": record()}])
    assert banger("vm", "start", "box").err == "banger: warning: passt is missing\n"


def test_logs_are_followed_until_the_machine_goes(daemon: FakeDaemon, banger: Shell) -> None:
    def logs(call: Call) -> Reply:
        offset = int(call.query.partition("offset=")[2])
        if offset >= 8:
            return failure(404, "not_found", "no machine 'box'")
        return Reply({"text": f"line{offset}\x1b\n"[:4] if offset else "abcd", "next_offset": offset + 4, "path": "/c"})

    daemon.routes["GET /v1/vms/box/logs"] = logs
    assert banger("vm", "logs", "-f", "box").out == "abcdline"
    assert daemon.calls[0].query == "which=console&offset=0"
    daemon.routes["GET /v1/vms/box/logs"] = Reply({"text": "", "next_offset": 0, "path": "/c"})
    assert banger("vm", "logs", "--vmm", "box").out == ""
    assert "which=vmm" in daemon.calls[-1].query
    daemon.routes["GET /v1/vms/box/logs"] = failure(404, "not_found", "no machine 'box'")
    assert banger("vm", "logs", "box").status == 1


def test_images(daemon: FakeDaemon, banger: Shell) -> None:
    daemon.routes |= {
        "GET /v1/images": Reply([IMAGE]),
        "GET /v1/images/debian-bookworm": Reply(IMAGE),
        "GET /v1/catalog/images": Reply([{"name": "debian-bookworm", "description": "Debian 12", "kernel": "debian-cloud", "pulled": True}]),
        "DELETE /v1/images/debian-bookworm": failure(400, "bad_request", "debian-bookworm is used by box"),
    }
    assert banger("image", "list").out.splitlines()[1].split()[:3] == ["debian-bookworm", "debian-cloud", "512M"]
    assert banger("image", "list", "--available").out.splitlines()[1].split()[:3] == ["debian-bookworm", "debian-cloud", "pulled"]
    assert "source     recipe:debian-bookworm\n" in banger("image", "show", "debian-bookworm").out
    assert banger("image", "show", "debian-bookworm", "--json").json["digest"] == "sha256:ab"
    result = banger("image", "delete", "debian-bookworm")
    assert (result.status, "used by box" in result.err) == (2, True)


def test_image_pull_shows_how_far_it_is(daemon: FakeDaemon, banger: Shell) -> None:
    steps = [{"stage": "install_packages", "message": f"package {n}", "progress": n / 40} for n in range(40)]
    daemon.routes["POST /v1/images"] = Reply(lines=[*steps, {"done": True, "result": IMAGE}])
    result = banger("image", "pull", "debian-bookworm")
    assert (result.status, result.out) == (0, "debian-bookworm\n")
    lines = result.err.splitlines()
    assert len(lines) == 10
    assert lines[3].startswith("banger: install_packages 30%")
    assert daemon.calls[-1].json["reference"] == "debian-bookworm"


def test_image_pull_says_when_there_was_nothing_to_do(daemon: FakeDaemon, banger: Shell) -> None:
    steps = [{"stage": "resolve_image", "message": "asking"}, {"stage": "up_to_date", "message": "debian-bookworm is up to date", "progress": 1.0}]
    daemon.routes["POST /v1/images"] = Reply(lines=[*steps, {"done": True, "result": IMAGE}])
    result = banger("image", "pull", "ghcr.io/acme/dev:1", "--name", "dev", "--insecure-registry", "ghcr.io", "--sha256", "A" * 64)
    assert (result.out, result.err) == ("debian-bookworm\n", "debian-bookworm is up to date\n")
    expected = {"reference": "ghcr.io/acme/dev:1", "name": "dev", "insecure_registries": ["ghcr.io"], "digest": "sha256:" + "a" * 64, "kernel": ""}
    assert daemon.calls[-1].json == expected | {"credentials": "", "spooled": False}


@pytest.mark.parametrize(
    ("words", "path", "body"),
    [
        ("build r.toml --name x", "build", {"recipe": "{cwd}/r.toml", "name": "x", "kernel": ""}),
        ("import ../r.tar --name x --kernel k", "import", {"file": "{parent}/r.tar", "name": "x", "kernel": "k", "digest": "", "spooled": False}),
        ("register --name x --rootfs /r.ext4", "register", {"name": "x", "rootfs": "/r.ext4", "kernel": ""}),
        ("export x -o out", "x/export", {"file": "{cwd}/out"}),
        ("export ghcr.io/a/b:1 -o /out", "ghcr.io%2Fa%2Fb%3A1/export", {"file": "/out"}),
    ],
)
def test_files_of_the_caller_become_absolute(
    daemon: FakeDaemon, banger: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: str, path: str, body: dict[str, object]
) -> None:
    monkeypatch.chdir(tmp_path)
    daemon.routes[f"POST /v1/images/{path}"] = Reply(lines=[{"done": True, "result": IMAGE}])
    assert banger("image", *words.split()).status == 0
    expected = json.loads(json.dumps(body).replace("{cwd}", str(tmp_path)).replace("{parent}", str(tmp_path.parent)))
    assert daemon.calls[-1].json == expected


def test_room_that_images_take(daemon: FakeDaemon, banger: Shell) -> None:
    found = [{"id": "i", "name": "old", "size_bytes": 1 << 20, "reason": "least recently used", "removed": False}]
    daemon.routes["POST /v1/images/gc"] = Reply(lines=[{"done": True, "result": found}])
    assert banger("image", "gc", "--dry-run", "--budget", "2G").out.splitlines()[1].split()[:3] == ["old", "1M", "to"]
    assert daemon.calls[-1].json == {"dry_run": True, "budget_bytes": 2 << 30}
    daemon.routes["POST /v1/images/prune-cache"] = Reply(lines=[{"done": True, "result": {"count": 3, "size_bytes": 5 << 20, "removed": True}}])
    assert banger("image", "cache", "prune").out == "3 blobs, 5M removed\n"
    daemon.routes["POST /v1/images/prune-cache"] = Reply(lines=[{"done": True, "result": {"count": 0, "size_bytes": 0, "removed": True, "kept": 4}}])
    busy = banger("image", "cache", "prune")
    assert (busy.out, "4 blobs stay: an image is being made" in busy.err) == ("0 blobs, 0B removed\n", True)
    assert banger("image", "gc", "--budget", "0").status == 0
    assert daemon.calls[-1].json == {"dry_run": False, "budget_bytes": 0}


def test_logins_and_stdin_of_a_pull(daemon: FakeDaemon, banger: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    daemon.routes |= {
        "POST /v1/images": Reply(lines=[{"done": True, "result": IMAGE}]),
        "GET /v1/kernels": Reply([KERNEL]),
        "GET /v1/catalog/kernels": Reply([]),
    }
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REGISTRY_AUTH_FILE", "auth.json")
    assert banger("image", "pull", "ghcr.io/acme/dev:1").status == 0
    assert (daemon.calls[-1].json["credentials"], daemon.calls[-1].json["spooled"]) == (str(tmp_path / "auth.json"), False)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"archive")))
    assert banger("image", "pull", "docker-archive:-", "--kernel", "debian-cloud").status == 0
    assert daemon.calls[-1].json["spooled"] is True
    for words in (("pull", "docker-archive:-"), ("import", "-", "--name", "x")):
        refused = banger("image", *words, "--kernel", "nope")
        assert (refused.status, "no kernel 'nope'" in refused.err, "kernel list --available" in refused.err) == (1, True, True)
        assert daemon.calls[-1].path == "/v1/catalog/kernels", "nothing was sent that was read before"


def test_a_full_disk_under_what_comes_through_a_pipe(daemon: FakeDaemon, banger: Shell, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("shutil.copyfileobj", full)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"archive")))
    result = banger("image", "import", "-", "--name", "x")
    assert (result.status, f"{home}/cache/spool" in result.err, "stdout" in result.err) == (1, True, False)


def test_a_kernels_file_needs_no_slash(daemon: FakeDaemon, banger: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "k.bundle").touch()
    daemon.routes["POST /v1/kernels"] = Reply(lines=[{"done": True, "result": KERNEL}])
    assert banger("kernel", "pull", "k.bundle", "--name", "kb").status == 0
    assert (daemon.calls[-1].json["name"], daemon.calls[-1].json["bundle"]) == ("kb", str(tmp_path / "k.bundle"))


def test_kernels(daemon: FakeDaemon, banger: Shell) -> None:
    daemon.routes |= {"GET /v1/kernels": Reply([KERNEL]), "GET /v1/kernels/debian-cloud": Reply(KERNEL)}
    assert banger("kernel", "list").out.splitlines()[1].split()[:3] == ["debian-cloud", "6.1.0-40-cloud-amd64", "40M"]
    assert "version    6.1.0-40-cloud-amd64\n" in banger("kernel", "show", "debian-cloud").out
    assert banger("kernel", "list", "--json").json[0]["name"] == "debian-cloud"


def test_daemon_verbs_start_nothing(home: Path, banger: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start_module, "start_daemon", lambda _: pytest.fail("started"))
    status = banger("daemon", "status")
    assert (status.status, status.out) == (1, f"no daemon is running (socket {home}/run/bangerd.sock)\n")
    assert banger("daemon", "status", "--json").json["running"] is False
    assert banger("daemon", "stop").status == 0
    assert not home.exists()


def test_daemon_status_and_stop(daemon: FakeDaemon, banger: Shell) -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        daemon.routes["GET /v1/daemon"] = Reply(STATUS | {"pid": process.pid, "running_vms": 2})
        assert f"pid               {process.pid}\n" in banger("daemon", "status").out

        def stop(_: Call) -> Reply:
            process.kill()
            return Reply(STATUS | {"pid": process.pid, "running_vms": 2})

        daemon.routes["DELETE /v1/daemon"] = stop
        result = banger("daemon", "stop")
        assert (result.status, result.out) == (0, f"stopped (pid {process.pid}); 2 machines keep running\n")


def test_a_daemon_of_another_version(home: Path, banger: Shell) -> None:
    with running(home, version="9.9") as daemon:
        daemon.routes["GET /v1/vms"] = Reply([])
        result = banger("vm", "list")
    assert result.status == 1
    assert "the daemon is version 9.9" in result.err
    assert "hint: run `banger daemon stop`" in result.err


def test_a_runtime_directory_of_the_wrong_mode(daemon: FakeDaemon, banger: Shell) -> None:
    daemon.layout.runtime.chmod(0o755)
    result = banger("vm", "list")
    assert result.status == 1
    assert result.err.startswith(f"banger: {daemon.layout.runtime} has mode 0755, others can reach it\nhint: chmod 700 {daemon.layout.runtime}\n")


def test_version(home: Path, banger: Shell) -> None:
    from banger import __version__

    assert banger("--version").out == f"banger {__version__}\n"
    assert banger("version").out.startswith(f"version: {__version__}\n")
    assert banger("version", "--json").json["version"] == __version__


def test_help_lists_everything_and_imports_nothing_slow() -> None:
    code = "import sys; from banger.cli.main import main; main(['--help']); print(*sorted({'msgspec', 'asyncio', 'rich', 'banger.client'} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": ":".join(sys.path)}).stdout
    assert [word for word in ("vm", "ps", "image", "kernel", "daemon", "doctor", "completion", "version") if f"\n  {word} " not in out] == []
    assert out.splitlines()[-1] == ""


def test_an_unexpected_error_is_one_line_and_a_traceback_only_on_request(banger: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    from banger.cli import version as module

    monkeypatch.setattr(module.version, "callback", lambda **_: 1 / 0)
    result = banger("version")
    assert result.status == 1
    assert result.err.startswith("banger: internal error: ZeroDivisionError: division by zero\n")
    assert "Traceback" not in result.err
    monkeypatch.setenv("BANGER_DEBUG", "1")
    assert "Traceback" in banger("version").err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(banger: Shell, shell: str) -> None:
    result = banger("completion", shell)
    assert result.status == 0
    assert "_BANGER_COMPLETE" in result.out


def complete(*words: str) -> list[str]:
    """What bash would offer for the last word."""
    variables = {"_BANGER_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(("banger", *words)), "COMP_CWORD": str(len(words))}
    program = [sys.executable, "-c", "from banger.cli.main import main; main()"]
    done = subprocess.run(program, env=os.environ | variables, capture_output=True, text=True, timeout=30)
    assert done.stderr == ""
    return [line.partition(",")[2] for line in done.stdout.split()]


def test_completion_offers_names_of_the_daemon(daemon: FakeDaemon) -> None:
    daemon.routes["GET /v1/vms"] = Reply([record("box"), record("boat", 1), record("cat", 2)])
    daemon.routes["GET /v1/images"] = Reply([IMAGE])
    daemon.routes["GET /v1/catalog/images"] = Reply([{"name": "debian-trixie", "description": "", "kernel": "", "pulled": False}])
    assert complete("vm", "st") == ["start", "stop", "stats"]
    assert complete("vm", "stop", "bo") == ["box", "boat"]
    assert complete("vm", "stop", "box", "bo") == ["boat"]
    assert complete("vm", "run", "--image", "deb") == ["debian-bookworm", "debian-trixie"]


def test_completion_without_a_daemon_offers_nothing_and_starts_nothing(home: Path) -> None:
    assert complete("vm", "stop", "") == []
    assert not home.exists()
