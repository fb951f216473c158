"""Machines that never become ready."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from pathlib import Path

import pytest

from tests import oracle
from tests.e2e.instance import Instance, wait_until

pytestmark = pytest.mark.timeout(240)


def is_vmm(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/exe").readlink().name.startswith("qemu-system")
    return False


def vmm_of(instance: Instance) -> int | None:
    """Pid of the one VMM process of an instance's machine that is not kept."""
    found = [pid for pid, _ in oracle.processes_of(str(instance.home)) if is_vmm(pid) and not any(oracle.holds(pid, kept) for kept in instance.kept)]
    return found[0] if found else None


def wait_for_vmm(instance: Instance) -> int:
    found: list[int] = []

    def look() -> bool:
        if pid := vmm_of(instance):
            found.append(pid)
        return bool(found)

    wait_until(look, "a VMM runs", 60)
    return found[0]


def console_of(instance: Instance, name: str) -> str:
    row = next(row for row in instance.rows("vms") if row["name"] == name)
    path = instance.state / "vms" / row["id"] / "console.log"
    return path.read_text(errors="replace") if path.exists() else ""


def test_vmm_dies_during_the_boot(instance: Instance) -> None:
    with instance.started("vm", "run", "--name", "dying", "--", "true") as client:
        pid = wait_for_vmm(instance)
        os.kill(pid, signal.SIGKILL)
        _, err = client.communicate(timeout=60)
    assert client.returncode == 125
    text = err.decode()
    assert "op-" in text
    assert "Traceback" not in text
    assert "banger vm logs dying" in text or "console" in text
    shown = instance.json("vm", "show", "dying")
    assert shown["record"]["state"] == "error"
    assert shown["record"]["runtime"]["last_error"]
    instance.ok("vm", "logs", "dying")
    instance.ok("vm", "delete", "dying")


def test_the_end_of_the_console_is_shown(instance: Instance) -> None:
    with instance.started("vm", "run", "--name", "talkative", "--", "true") as client:
        pid = wait_for_vmm(instance)
        wait_until(lambda: console_of(instance, "talkative").strip() or client.poll() is not None, "the console has said something")
        said = console_of(instance, "talkative").strip().splitlines()
        if client.poll() is None and instance.rows("vms")[-1]["state"] != "running":
            os.kill(pid, signal.SIGKILL)
        _, err = client.communicate(timeout=60)
    if client.returncode == 125:
        assert said
        assert said[-1].strip()[:40] in err.decode()
    instance.ok("vm", "delete", "talkative")


def test_vmm_dies_during_the_boot_with_rm(instance: Instance) -> None:
    with instance.started("vm", "run", "--rm", "--", "true") as client:
        os.kill(wait_for_vmm(instance), signal.SIGKILL)
        _, err = client.communicate(timeout=60)
    assert client.returncode == 125
    assert b"op-" in err
    wait_until(lambda: not oracle.leftovers(instance), "nothing is left", 20)


def test_a_frozen_boot_does_not_keep_a_deletion_waiting(instance: Instance) -> None:
    with instance.started("vm", "run", "--name", "stiff", "--", "true") as client:
        os.kill(wait_for_vmm(instance), signal.SIGSTOP)
        instance.ok("vm", "delete", "stiff", timeout=40)
        _, err = client.communicate(timeout=40)
    assert (client.returncode, b"stiff was deleted by another command" in err) == (125, True)
    assert oracle.leftovers(instance) == []


def test_hello_that_never_comes(instance: Instance) -> None:
    """The VMM is frozen before the guest can speak: the wait is bounded, and the machine is kept for inspection unless --rm."""
    with instance.started("vm", "run", "--name", "mute", "--", "true") as kept:
        os.kill(wait_for_vmm(instance), signal.SIGSTOP)
        instance.kept.add(next(row["id"] for row in instance.rows("vms")))  # so that the other one is found
        with instance.started("vm", "run", "--rm", "--", "true") as removed:
            os.kill(wait_for_vmm(instance), signal.SIGSTOP)
            (_, kept_err), (_, removed_err) = kept.communicate(timeout=150), removed.communicate(timeout=150)
    instance.kept.clear()
    for client, err in ((kept, kept_err), (removed, removed_err)):
        assert client.returncode == 125
        assert re.search(rb"\bop-[0-9a-f]{12}\b", err)
        assert b"hello" in err
        assert b"Traceback" not in err
    assert b"banger vm logs mute" in kept_err
    wait_until(lambda: [row["name"] for row in instance.rows("vms")] == ["mute"], "the machine of --rm is gone", 20)
    assert instance.json("vm", "show", "mute")["record"]["state"] == "error"
    instance.ok("vm", "logs", "mute")
    instance.ok("vm", "delete", "mute")
    assert oracle.leftovers(instance) == []
