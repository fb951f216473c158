"""Machines live on when what is around them ends, and what somebody removed comes back."""

from __future__ import annotations

import time

import pytest

from tests.lab.conftest import Installed

pytestmark = pytest.mark.timeout(1200)


def boot_id(system: Installed, machine: str) -> str:
    return system.ok("vm", "exec", machine, "--", "cat", "/proc/sys/kernel/random/boot_id")


def answers(system: Installed, machine: str) -> bool:
    """Its name is known, its address answers."""
    return system.laboratory.run("ping", "-q", "-c", "1", "-W", "5", f"{machine}.vm").status == 0


def soon(system: Installed, machine: str, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not answers(system, machine):
        assert time.monotonic() < deadline, f"{machine}.vm does not answer after {seconds:g} s"
        time.sleep(1)


def test_restart_of_helper_and_daemon(system: Installed, box: str) -> None:
    soon(system, box)
    before = boot_id(system, box)
    assert "1 running" in system.as_root("system", "restart")
    assert boot_id(system, box) == before
    soon(system, box)


def test_the_daemon_is_killed(system: Installed, box: str) -> None:
    before = boot_id(system, box)
    system.laboratory.sh(
        "systemctl kill --kill-whom=main --signal=KILL bangerd; sleep 2; timeout 60 sh -c 'until systemctl -q is-active bangerd; do sleep 0.5; done'"
    )
    assert boot_id(system, box) == before
    soon(system, box)


def test_the_helper_is_killed(system: Installed, box: str) -> None:
    before = boot_id(system, box)
    system.laboratory.sh("systemctl kill --kill-whom=main --signal=KILL banger-helper")
    assert answers(system, box)
    system.start("after")
    assert answers(system, "after")
    assert boot_id(system, box) == before
    system.ok("vm", "delete", "after")


def test_resolved_is_restarted(system: Installed, box: str) -> None:
    system.laboratory.sh("systemctl restart systemd-resolved")
    soon(system, box)


def test_somebody_flushes_nftables(system: Installed, box: str) -> None:
    before = system.laboratory.sh("nft -s list ruleset | grep -c banger0-")
    system.laboratory.sh("nft flush ruleset")
    system.start("after")  # whatever starts next looks after the network
    try:
        assert system.laboratory.sh("nft -s list ruleset | grep -c banger0-") == before
        assert system.ok("vm", "exec", box, "--", "sh", "-c", "ping -q -c 1 -W 10 172.30.86.1 | grep -c '1 packets received'") == "1\n"
        assert "network repaired" in system.laboratory.sh("journalctl -b -u banger-helper -o cat --no-pager")
    finally:
        system.ok("vm", "delete", "after")


def test_somebody_deletes_the_bridge(system: Installed, box: str) -> None:
    before = boot_id(system, box)
    system.laboratory.sh("ip link delete banger0")
    system.start("after")
    try:
        soon(system, box)
        assert boot_id(system, box) == before
    finally:
        system.ok("vm", "delete", "after")


def test_nothing_is_left_of_those_that_have_gone(system: Installed, box: str) -> None:
    assert "nothing is left over" in system.run("gc", "--dry-run").err
    scopes = system.laboratory.sh("find /sys/fs/cgroup -type d -name 'banger-*.scope' | wc -l").strip()
    assert scopes == str(len(system.json("vm", "list", "--running")))
