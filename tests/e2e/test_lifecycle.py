"""A machine that is kept: boot, the daemon's death, stop, start, delete."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import oracle
from tests.e2e.instance import Instance, wait_until

pytestmark = pytest.mark.timeout(300)


@contextmanager
def made(instance: Instance, *words: str) -> Iterator[str]:
    """Name of a machine that the test may do anything to."""
    name = f"kept-{os.urandom(3).hex()}"
    instance.ok("vm", "run", "-d", "--name", name, *words)
    try:
        yield name
    finally:
        if any(row["name"] == name for row in instance.rows("vms")):
            instance.ok("vm", "delete", name)


@pytest.fixture
def kept(instance: Instance) -> Iterator[str]:
    with made(instance) as name:
        yield name


@pytest.fixture
def booted(instance: Instance) -> Iterator[str]:
    with made(instance, "--wait", "booted") as name:
        yield name


def boot_id(instance: Instance, name: str) -> str:
    return instance.ok("vm", "exec", name, "--", "cat", "/proc/sys/kernel/random/boot_id").strip()


def kill_daemon(instance: Instance) -> None:
    pid = instance.daemon_pid()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: instance.daemon_pid() is None, "the daemon is dead")


def test_the_whole_story(instance: Instance, booted: str) -> None:
    """The third paragraph of "Shown to be done", line by line."""
    assert instance.ok("vm", "exec", booted, "--", "systemctl", "is-system-running").strip() == "running"
    before = boot_id(instance, booted)
    kill_daemon(instance)
    assert boot_id(instance, booted) == before

    instance.ok("vm", "exec", booted, "--", "sh", "-c", "echo one > /root/file; echo two > /etc/file")
    instance.ok("vm", "stop", booted)
    assert instance.json("vm", "show", booted)["record"]["state"] == "stopped"
    assert instance.run("vm", "exec", booted, "--", "true").status == 125
    instance.ok("vm", "start", booted)
    assert boot_id(instance, booted) != before
    assert instance.ok("vm", "exec", booted, "--", "cat", "/root/file", "/etc/file") == "one\ntwo\n"

    instance.ok("vm", "delete", booted)
    assert oracle.leftovers(instance) == []
    assert instance.run("vm", "show", booted).status == 1


def test_daemon_killed_in_the_middle_of_much_output(instance: Instance, kept: str) -> None:
    """The channel is cut in mid-frame; the next daemon resynchronises, and the old command got SIGHUP."""
    script = "exec 2>/dev/null; trap 'echo hup > /root/hup; exit' HUP; while :; do head -c 1000000 /dev/zero; done"
    with instance.started("vm", "exec", kept, "--", "sh", "-c", script) as client:
        assert client.stdout is not None
        assert client.stdout.read(1_000_000) == bytes(1_000_000)
        kill_daemon(instance)
        client.stdout.read()
        assert client.wait(30) == 125
        assert client.stderr is not None
        assert "Traceback" not in client.stderr.read().decode()
    for number in range(3):
        assert instance.ok("vm", "exec", kept, "--", "echo", str(number)) == f"{number}\n"
    wait_until(lambda: instance.run("vm", "exec", kept, "--", "cat", "/root/hup").out == "hup\n", "the command got SIGHUP")


def test_daemon_stop_leaves_machines_running(instance: Instance, kept: str) -> None:
    before, pid = boot_id(instance, kept), instance.json("vm", "show", kept)["pid"]
    instance.ok("daemon", "stop")
    wait_until(lambda: instance.daemon_pid() is None, "the daemon has stopped")
    assert boot_id(instance, kept) == before
    assert instance.json("vm", "show", kept)["pid"] == pid


def test_rm_machines_without_holder_go_when_the_daemon_comes_back(instance: Instance) -> None:
    with instance.started("vm", "run", "--rm", "--", "sh", "-c", "echo ready; sleep 600") as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"ready\n"
        kill_daemon(instance)
        assert client.wait(30) == 125
    instance.ok("vm", "list")
    wait_until(lambda: not oracle.leftovers(instance), "the machine is gone", 30)


def test_a_machine_whose_vmm_died_is_seen_as_stopped(instance: Instance, kept: str) -> None:
    os.kill(instance.json("vm", "show", kept)["pid"], signal.SIGKILL)
    wait_until(lambda: not instance.json("vm", "show", kept)["alive"], "the death is seen")
    assert instance.run("vm", "exec", kept, "--", "true").status == 125
    wait_until(lambda: instance.json("vm", "show", kept)["record"]["state"] != "running", "the record follows", 20)
    instance.ok("vm", "start", kept)
    assert instance.ok("vm", "exec", kept, "--", "echo", "back") == "back\n"


def test_poweroff_inside_stops_the_machine(instance: Instance, booted: str) -> None:
    instance.run("vm", "exec", booted, "--", "systemctl", "poweroff")
    wait_until(lambda: instance.json("vm", "show", booted)["record"]["state"] == "stopped", "the machine is stopped", 60)


def test_restart(instance: Instance, kept: str) -> None:
    before = boot_id(instance, kept)
    instance.ok("vm", "restart", kept)
    assert boot_id(instance, kept) != before


def test_kill_is_quick_and_leaves_disks(instance: Instance, kept: str) -> None:
    instance.ok("vm", "exec", kept, "--", "sh", "-c", "echo safe > /root/file; sync")
    instance.ok("vm", "kill", kept)
    shown = instance.json("vm", "show", kept)
    assert (shown["record"]["state"], shown["alive"], shown["pid"]) == ("stopped", False, None)
    instance.ok("vm", "start", kept)
    assert instance.ok("vm", "exec", kept, "--", "cat", "/root/file") == "safe\n"


def test_a_frozen_machine_is_killed_although_a_stop_waits_for_it(instance: Instance, kept: str) -> None:
    os.kill(instance.json("vm", "show", kept)["pid"], signal.SIGSTOP)
    with instance.started("vm", "stop", "--timeout", "900", kept) as stop:
        wait_until(lambda: any(row["kind"] == "vm.stop" and row["step"] == 0 for row in instance.rows("journal")), "the stop waits")
        instance.ok("vm", "kill", "--signal", "9", kept, timeout=60)
        _, err = stop.communicate(timeout=60)
    assert (stop.returncode, b"was killed by another command" in err) == (1, True)
    shown = instance.json("vm", "show", kept)["record"]
    assert (shown["state"], shown["runtime"]["last_stop_reason"]) == ("stopped", "by `vm kill` with SIGKILL")
    instance.ok("vm", "start", kept)


@pytest.mark.root
def test_a_machine_whose_disk_the_host_cannot_hold_is_paused_and_goes_on(sibling: Instance, tmp_path: Path) -> None:
    vms, image, filler = sibling.state / "vms", tmp_path / "small.img", sibling.state / "vms" / "filler"
    vms.mkdir(mode=0o700)
    image.touch()
    os.truncate(image, 128 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, vms], check=True)
    try:
        vms.chmod(0o700)
        (vms / "lost+found").rmdir()
        sibling.ok("vm", "run", "-d", "--name", "box", "--disk-size", "1G", "--system-overlay-size", "1G")
        with filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(vms).free - (4 << 20))
        write = ("dd", "if=/dev/urandom", "of=/root/file", "bs=1M", "count=16", "conv=fsync", "status=none")
        with sibling.started("vm", "exec", "box", "--", *write) as writing:
            wait_until(lambda: "the disk of this host is full" in sibling.run("vm", "health", "box").err, "it is paused", 90)
            filler.unlink()
            assert (writing.wait(90), sibling.run("vm", "health", "box").status) == (0, 0)
        sibling.ok("vm", "delete", "box")
    finally:
        sibling.delete_everything()
        subprocess.run(["umount", vms], check=True)


def test_created_then_started_then_stopped_twice(instance: Instance) -> None:
    instance.ok("vm", "create", "--no-start", "--name", "later")
    try:
        assert instance.json("vm", "show", "later")["record"]["state"] == "stopped"
        instance.ok("vm", "start", "later")
        instance.ok("vm", "start", "later")
        assert instance.ok("vm", "exec", "later", "--", "hostname") == "later\n"
        instance.ok("vm", "stop", "later")
        instance.ok("vm", "stop", "later")
    finally:
        instance.ok("vm", "delete", "later")
