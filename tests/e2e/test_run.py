"""`banger vm run`: a machine for one command. The heart of "Shown to be done"."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests import oracle
from tests.e2e.instance import Instance, wait_until

pytestmark = pytest.mark.timeout(240)

WAIT_FOR_BOOT = "i=0; until systemctl is-system-running 2>/dev/null | grep -qE 'running|degraded' || [ $i -ge 300 ]; do i=$((i+1)); sleep 0.2; done"


def test_output_and_status_are_the_commands_own(instance: Instance) -> None:
    done = instance.run("vm", "run", "--rm", "--", "sh", "-c", "echo out; echo err >&2; exit 42")
    assert done.status == 42
    assert done.raw == b"out\n"
    assert "err\n" in done.err


def test_the_guest_has_a_kernel_of_its_own(instance: Instance) -> None:
    words = instance.ok("vm", "run", "--rm", "--", "uname", "-a").split()
    assert words[0] == "Linux"
    assert words[2] == instance.json("kernel", "show", "debian-cloud")["version"]


def test_stdin_reaches_the_command(instance: Instance) -> None:
    done = instance.run("vm", "run", "--rm", "--", "cat", stdin=b"hello")
    assert (done.status, done.raw) == (0, b"hello")


def test_two_at_once(instance: Instance) -> None:
    with (
        instance.started("vm", "run", "--rm", "--", "sh", "-c", "echo one; hostname") as one,
        instance.started("vm", "run", "--rm", "--", "sh", "-c", "echo two; hostname") as two,
    ):
        first, second = one.communicate(timeout=200), two.communicate(timeout=200)
    assert (one.returncode, two.returncode) == (0, 0), (first[1], second[1])
    (said_one, host_one), (said_two, host_two) = first[0].split(), second[0].split()
    assert (said_one, said_two) == (b"one", b"two")
    assert host_one != host_two


def test_tmp_is_kept_while_the_system_boots(instance: Instance) -> None:
    script = f"mkdir /tmp/mine; echo kept > /tmp/mine/file; {WAIT_FOR_BOOT}; systemctl is-system-running; cat /tmp/mine/file"
    assert instance.ok("vm", "run", "--rm", "--", "sh", "-c", script).split() == ["running", "kept"]


def test_sizes_reach_the_guest(instance: Instance) -> None:
    script = "nproc; awk '/MemTotal/ {print $2}' /proc/meminfo; df -k --output=size / /root | tail -n 2; hostname"
    words = ["--name", "sized", "--vcpu", "1", "--memory", "512M", "--system-overlay-size", "2G", "--disk-size", "1GiB"]
    cpus, memory, root, work, hostname = instance.ok("vm", "run", "--rm", *words, "--", "sh", "-c", script).split()
    assert cpus == "1"
    assert 400_000 < int(memory) <= 512 * 1024
    assert 0.85 * 2 * 1024**2 < int(root) <= 2 * 1024**2
    assert 0.85 * 1024**2 < int(work) <= 1024**2
    assert hostname == "sized"


def test_without_rm_the_machine_stays(instance: Instance) -> None:
    instance.ok("vm", "run", "--name", "stays", "--", "true")
    try:
        assert instance.json("vm", "show", "stays")["record"]["state"] == "running"
    finally:
        instance.ok("vm", "delete", "stays")


def test_detached_machine_says_nothing_but_its_name_on_stdout(instance: Instance) -> None:
    out = instance.ok("vm", "run", "-d", "--name", "detached")
    try:
        assert out.split() in ([], ["detached"])
    finally:
        instance.ok("vm", "delete", "detached")


def test_stages_are_plain_lines_where_there_is_no_terminal(instance: Instance) -> None:
    done = instance.run("vm", "run", "--rm", "--", "true")
    assert done.status == 0
    assert "\x1b" not in done.err
    assert "\r" not in done.err
    assert done.raw == b""


@pytest.mark.parametrize(
    ("how", "script"),
    [
        ("KILL", "echo ready; sleep 600"),
        ("KILL", "trap '' HUP TERM INT; echo ready; sleep 600"),
        ("TERM", "echo ready; exec sleep 600"),
        # Not a shell: one that has just forked loses a SIGINT in its child.
        ("INT", """exec python3 -c 'import time; print("ready", flush=True); time.sleep(600)' 2>/dev/null"""),
        ("HUP", "trap '' HUP; echo ready; sleep 600"),
    ],
)
def test_rm_holds_however_the_client_ends(instance: Instance, how: str, script: str) -> None:
    with instance.started("vm", "run", "--rm", "--", "sh", "-c", script) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"ready\n"
        assert instance.rows("vms")
        subprocess.run(["kill", f"-{how}", str(client.pid)], check=True)
        client.wait(40)
    wait_until(lambda: not oracle.leftovers(instance), "nothing is left", 40)


def test_a_client_that_goes_during_the_boot_leaves_nothing(instance: Instance) -> None:
    with instance.started("vm", "run", "--rm", "--", "true") as client:
        wait_until(lambda: instance.rows("vms"), "the machine is reserved")
        client.kill()
        client.wait(10)
    wait_until(lambda: not oracle.leftovers(instance), "nothing is left", 60)


def test_generated_names_follow_the_rule(instance: Instance) -> None:
    created = instance.json("vm", "create", "--no-start")
    try:
        assert re.fullmatch(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", created["name"])
    finally:
        instance.ok("vm", "delete", created["name"])
