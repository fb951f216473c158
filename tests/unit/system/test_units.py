"""The units as systemd reads them."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from banger.model.installation import Installation
from banger.model.network import network_plan
from banger.system.places import DAEMON_UNIT, HELPER_SOCKET_UNIT, HELPER_UNIT
from banger.system.units import units

INSTALLED = Installation(
    owner="daemon", uid=1, gid=1, home=Path("/usr/sbin"), network=network_plan(), version="1", installed_at="2026-11-20T00:00:00Z", reachable=()
)


def test_systemd_finds_nothing_wrong(tmp_path: Path) -> None:
    for name, text in units(INSTALLED, groups="tty").items():
        # The programs are not installed here; any that can be executed will do.
        (tmp_path / name).write_text(
            text.replace("ExecStart=/usr/local/bin/bangerd", "ExecStart=/bin/true").replace("/usr/local/lib/banger/bin/banger-helper", "/bin/true")
        )
    files = [tmp_path / name for name in (DAEMON_UNIT, HELPER_UNIT, HELPER_SOCKET_UNIT)]
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", *files], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def options(name: str, *, groups: str = "") -> list[str]:
    return [line for line in units(INSTALLED, groups=groups)[name].splitlines() if "=" in line and not line.startswith("#")]


def test_who_runs_what() -> None:
    assert {"User=daemon", "Type=notify", "KillMode=process", "RuntimeDirectoryPreserve=yes"} <= set(options(DAEMON_UNIT))
    assert not [line for line in options(DAEMON_UNIT) if line.startswith("SupplementaryGroups")]
    assert "SupplementaryGroups=kvm" in options(DAEMON_UNIT, groups="kvm")
    assert {"SocketUser=daemon", "SocketMode=0600", "ListenSequentialPacket=/run/banger-helper/helper.sock", "RemoveOnStop=no"} <= set(
        options(HELPER_SOCKET_UNIT)
    )
    assert {"KillMode=process", "SendSIGKILL=no", "NoNewPrivileges=yes"} <= set(options(HELPER_UNIT))
    assert not [line for line in options(HELPER_UNIT) if line.startswith("User=")]


@pytest.mark.parametrize(
    ("name", "capabilities"),
    [
        (DAEMON_UNIT, "CAP_SETUID CAP_SETGID"),
        (HELPER_UNIT, "CAP_NET_ADMIN CAP_NET_RAW CAP_NET_BIND_SERVICE CAP_SETUID CAP_SETGID CAP_SETPCAP CAP_KILL"),
    ],
)
def test_capabilities_are_bounded(name: str, capabilities: str) -> None:
    assert [line for line in options(name) if line.startswith("CapabilityBoundingSet")] == [f"CapabilityBoundingSet={capabilities}"]
    assert not [line for line in options(name) if line.startswith("AmbientCapabilities")]


def test_a_specifier_in_a_name_is_text() -> None:
    assert "User=a%%b\n" in units(replace(INSTALLED, owner="a%b"), groups="")[DAEMON_UNIT]
