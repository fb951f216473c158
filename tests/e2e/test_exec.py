"""Commands in a running machine: streams, statuses, signals, and a client that dies."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import threading
import time

import pytest

from tests.e2e.instance import Instance, wait_until

pytestmark = pytest.mark.timeout(120)


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("true",), 0),
        (("false",), 1),
        (("sh", "-c", "exit 42"), 42),
        (("sh", "-c", "kill -9 $$"), 137),
        (("sh", "-c", "kill -TERM $$"), 143),
        (("no-such-command",), 127),
        (("/no/such/file",), 127),
        (("/etc/passwd",), 126),
        (("/etc",), 126),
    ],
)
def test_status(instance: Instance, box: str, words: tuple[str, ...], status: int) -> None:
    done = instance.run("vm", "exec", box, "--", *words)
    assert done.status == status, done.err
    assert "Traceback" not in done.err
    if status in (126, 127):
        assert words[0] in done.err


def test_streams_are_kept_apart(instance: Instance, box: str) -> None:
    done = instance.run("vm", "exec", box, "--", "sh", "-c", "echo out; echo err >&2")
    assert (done.raw, done.err) == (b"out\n", "err\n")


def test_no_stdin_is_end_of_file(instance: Instance, box: str) -> None:
    assert instance.run("vm", "exec", box, "--", "cat", timeout=30).raw == b""


def test_arguments_arrive_unchanged(instance: Instance, box: str) -> None:
    words = ["", "a b", "$HOME", "'\"", "--json", "-v", "ü\n*"]
    assert instance.ok("vm", "exec", box, "--", "python3", "-c", "import sys; print(sys.argv[1:])", *words).strip() == str(words)


def test_sixty_four_mebibytes_both_ways(instance: Instance, box: str) -> None:
    sent = os.urandom(1024 * 1024) * 64
    done = instance.run("vm", "exec", box, "--", "cat", stdin=sent)
    assert done.status == 0, done.err
    assert len(done.raw) == len(sent)
    assert hashlib.sha256(done.raw).digest() == hashlib.sha256(sent).digest()


def test_a_reader_that_does_not_read_blocks_itself_alone(instance: Instance, box: str) -> None:
    with instance.started("vm", "exec", box, "--", "cat", "/dev/zero") as flood:
        assert flood.stdout is not None
        assert flood.stdout.read(4096) == bytes(4096)
        time.sleep(1)  # its credit and every buffer on the way are used up by then
        for _ in range(3):
            assert instance.ok("vm", "exec", box, "--", "echo", "alive", timeout=20) == "alive\n"


def test_output_is_not_lost_when_the_command_ends_at_once(instance: Instance, box: str) -> None:
    script = "head -c 300000 /dev/zero | tr '\\0' x; echo end >&2"
    done = instance.run("vm", "exec", box, "--", "sh", "-c", script)
    assert (len(done.raw), done.err) == (300000, "end\n")


def test_processes_left_behind_do_not_keep_the_stream_open(instance: Instance, box: str) -> None:
    begun = time.monotonic()
    assert instance.ok("vm", "exec", box, "--", "sh", "-c", "sleep 55 & echo done", timeout=50) == "done\n"
    assert time.monotonic() - begun < 50


def test_a_closed_pipe_ends_the_client(instance: Instance, box: str) -> None:
    with instance.started("vm", "exec", box, "--", "yes") as client:
        assert client.stdout is not None
        client.stdout.read(10)
        client.stdout.close()
        assert client.wait(30) != 0
    wait_until(lambda: instance.run("vm", "exec", box, "--", "pgrep", "-x", "yes").status == 1, "yes has ended in the guest")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_reach_the_command(instance: Instance, box: str, number: signal.Signals) -> None:
    script = f"trap 'echo got; exit 7' {number.name[3:]}; echo ready; while :; do sleep 0.1; done"
    with instance.started("vm", "exec", box, "--", "sh", "-c", script) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"ready\n"
        client.send_signal(number)
        assert client.stdout.readline() == b"got\n"
        assert client.wait(20) == 7


# A shell says "Hangup" of a child that dies so, and with nobody left at the other end of stderr that would kill it before its trap runs.
def test_killed_client_hangs_up_on_the_command(instance: Instance, box: str) -> None:
    script = "exec 2>/dev/null; rm -f /tmp/hup; trap 'echo hup > /tmp/hup; exit' HUP; echo ready; while :; do sleep 0.1; done"
    with instance.started("vm", "exec", box, "--", "sh", "-c", script) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"ready\n"
        client.kill()
        client.wait(10)
    wait_until(lambda: instance.run("vm", "exec", box, "--", "cat", "/tmp/hup").out == "hup\n", "the command got SIGHUP")


def test_many_at_once(instance: Instance, box: str) -> None:
    said: list[str] = []

    def one(number: int) -> None:
        said.append(instance.ok("vm", "exec", box, "--", "echo", str(number)).strip())

    threads = [threading.Thread(target=one, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(said) == [str(number) for number in range(8)]


def test_login_environment(instance: Instance, box: str) -> None:
    env = dict(line.split("=", 1) for line in instance.ok("vm", "exec", box, "--", "env").splitlines())
    assert (env["HOME"], env["USER"], env["LANG"]) == ("/root", "root", "C.UTF-8")
    assert "BANGER_HOME" not in env
    assert instance.ok("vm", "exec", box, "--", "pwd").strip() == "/root"


def test_user_directory_and_variables(instance: Instance, box: str) -> None:
    words = ["--user", "nobody", "--cwd", "/usr", "--env", "COLOR=blue sky"]
    assert instance.ok("vm", "exec", box, *words, "--", "sh", "-c", 'id -un; pwd; echo "$COLOR"').splitlines() == ["nobody", "/usr", "blue sky"]


def test_a_directory_that_is_not_there(instance: Instance, box: str) -> None:
    done = instance.run("vm", "exec", box, "--cwd", "/nowhere", "--", "true")
    assert done.status == 126
    assert "/nowhere" in done.err


def test_what_a_developer_expects_is_there(instance: Instance, box: str) -> None:
    script = "for tool in git curl python3 sudo ip ps less vi ssh sshd; do command -v $tool >/dev/null || echo missing $tool; done; ls -A /root"
    assert "missing" not in instance.ok("vm", "exec", box, "--", "sh", "-c", script)


def test_owners_and_modes_are_right(instance: Instance, box: str) -> None:
    script = "stat -c '%U:%G %a' / /etc/shadow /usr/bin/sudo /tmp /root; find / -xdev \\( -nouser -o -nogroup \\) | head -n 5"
    assert instance.ok("vm", "exec", box, "--", "sh", "-c", script).splitlines() == [
        "root:root 755",
        "root:shadow 640",
        "root:root 4755",
        "root:root 1777",
        "root:root 700",
    ]


def test_no_network_card(instance: Instance, box: str) -> None:
    assert instance.ok("vm", "exec", box, "--", "ls", "/sys/class/net").split() == ["lo"]


def test_the_vmm_is_not_root(instance: Instance, box: str) -> None:
    pid = instance.json("vm", "show", box)["pid"]
    status = subprocess.run(["ps", "-o", "uid=", "-p", str(pid)], capture_output=True, text=True, check=True).stdout
    assert int(status) != 0


def test_exec_in_a_stopped_machine(instance: Instance) -> None:
    instance.ok("vm", "create", "--no-start", "--name", "never-started")
    try:
        done = instance.run("vm", "exec", "never-started", "--", "true")
        assert done.status == 125
        assert "not running" in done.err
        assert "banger vm start never-started" in done.err
        assert "op-" in done.err
    finally:
        instance.ok("vm", "delete", "never-started")


def test_exec_in_a_machine_that_is_not_there(instance: Instance) -> None:
    done = instance.run("vm", "exec", "nobody", "--", "true")
    assert done.status == 125
    assert "nobody" in done.err
