"""What an administrator and other users of the host see of an installation."""

from __future__ import annotations

import json

import pytest

from tests.lab.conftest import Installed
from tests.lab.laboratory import OWNER, STRANGER

pytestmark = pytest.mark.timeout(1200)
NEVER_THEIRS = """
for place in /var/lib/banger /var/cache/banger /run/banger /run/banger/bangerd.sock /run/banger-helper/helper.sock; do
    if ls "$place" >/dev/null 2>&1 && [ -d "$place" ]; then echo "lists $place"; fi
    if cat "$place" >/dev/null 2>&1; then echo "reads $place"; fi
    if [ -w "$place" ]; then echo "writes $place"; fi
done
"""
CONNECT = """
import socket, sys
for kind, path in ((socket.SOCK_STREAM, "/run/banger/bangerd.sock"), (socket.SOCK_STREAM, "/run/banger/attach.sock"),
                   (socket.SOCK_SEQPACKET, "/run/banger-helper/helper.sock")):
    try:
        socket.socket(socket.AF_UNIX, kind).connect(path)
        print("connects to", path)
    except PermissionError:
        pass
"""


def test_nothing_of_it_can_be_written_by_the_owner(system: Installed) -> None:
    script = "find /usr/local /etc/banger /etc/systemd/system/banger* ! -type l \\( -writable -o ! -user root \\) -print"
    assert system.laboratory.sh(script, user=OWNER) == ""


def test_the_daemon_has_no_privileges(system: Installed) -> None:
    status = system.laboratory.sh("cat /proc/$(systemctl show -P MainPID bangerd)/status").splitlines()
    fields = dict(line.split(":\t", 1) for line in status if ":\t" in line)
    assert {fields[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {"0" * 16}
    assert "0" not in fields["Uid"].split()


def test_a_second_installation_changes_nothing(system: Installed) -> None:
    pid = system.laboratory.sh("systemctl show -P MainPID bangerd")
    assert json.loads(system.as_root("system", "install", "--dry-run", "--json"))["steps"] == []
    assert "nothing had to be changed" in system.as_root("system", "install", "--owner", OWNER)
    assert system.laboratory.sh("systemctl show -P MainPID bangerd") == pid


def test_another_owner_is_refused(system: Installed) -> None:
    done = system.laboratory.run("banger", "system", "install", "--owner", STRANGER)
    assert done.status != 0
    assert OWNER in done.err and "hint:" in done.err


@pytest.mark.parametrize("owner", ["nobody-of-that-name", "root"])
def test_an_impossible_owner_is_refused(system: Installed, owner: str) -> None:
    done = system.laboratory.run("banger", "system", "install", "--owner", owner)
    assert done.status != 0
    assert owner in done.err and "hint:" in done.err


def test_a_stranger_reads_nothing_and_connects_to_nothing(system: Installed) -> None:
    assert system.laboratory.sh(NEVER_THEIRS, user=STRANGER) == ""
    assert system.laboratory.ok("python3", "-c", CONNECT, user=STRANGER) == ""
    assert len(system.laboratory.ok("python3", "-c", CONNECT, user=OWNER).splitlines()) == 3


def test_a_stranger_has_machines_of_their_own(system: Installed, box: str) -> None:
    """The command leads to an instance of theirs, where the owner's machines are not."""
    theirs = "mkdir -p /tmp/eve; export HOME=/tmp/eve XDG_STATE_HOME= XDG_CACHE_HOME= XDG_CONFIG_HOME= XDG_RUNTIME_DIR="
    assert json.loads(system.laboratory.sh(f"{theirs}; banger vm list --json", user=STRANGER)) == []
    system.laboratory.sh(f"{theirs}; banger daemon stop; rm -r /tmp/eve", user=STRANGER)


def test_doctor_of_the_installation(system: Installed, box: str) -> None:
    done = system.run("doctor", "--json")
    checks = json.loads(done.out)
    assert [check for check in checks if check["status"] == "fail"] == []
    assert {check["status"] for check in checks if check["name"] in ("kvm", "bridge")} == {"pass"}
    assert done.status == (1 if any(check["status"] == "warn" for check in checks) else 0)


def test_ssh_goes_through_the_installed_program(system: Installed, box: str) -> None:
    """Which works from an environment without any variable."""
    (line,) = system.laboratory.ok("grep", "ProxyCommand", "/var/lib/banger/ssh/config", user=OWNER).splitlines()
    command = line.split(maxsplit=1)[1].replace(" vm connect %n %p", " vm list --json")
    assert "/usr/local/bin/banger" in command
    assert json.loads(system.laboratory.sh(f"env -i {command}", user=OWNER)) == system.json("vm", "list")


def test_manual_pages_and_completion(system: Installed) -> None:
    script = "zcat /usr/local/share/man/man1/banger.1.gz | head -c 400; bash -nc '. /usr/local/share/bash-completion/completions/banger'"
    assert ".TH" in system.laboratory.sh(script)
