"""The short way through: installed for an ordinary user, a machine on the bridge found by its name, and gone without a trace."""

from __future__ import annotations

import json

import pytest

from tests.lab.conftest import Installed
from tests.lab.laboratory import OWNER
from tests.lab.trace import trace

pytestmark = pytest.mark.timeout(1200)


def test_services_are_up(system: Installed) -> None:
    assert system.laboratory.ok("systemctl", "is-active", "bangerd.service", "banger-helper.socket").split() == ["active", "active"]
    status = json.loads(system.ok("system", "status", "--json"))
    assert status["installation"]["owner"] == OWNER
    assert status["daemon"]["pid"] > 0
    owner, program = system.laboratory.sh("ps -o user=,args= -p $(systemctl show -P MainPID bangerd)").split(maxsplit=1)
    assert (owner, "/usr/local/bin/bangerd --system" in program) == (OWNER, True)


def test_a_machine_is_reached_by_its_name(system: Installed, box: str) -> None:
    record = system.json("vm", "show", box)["record"]
    assert record["runtime"]["network"] == "bridge"
    address = record["runtime"]["address"]
    assert system.laboratory.ok("getent", "hosts", f"{box}.vm", user=OWNER).split() == [address, f"{box}.vm"]
    assert "1 received" in system.laboratory.ok("ping", "-c", "1", "-W", "10", f"{box}.vm", user=OWNER)
    system.ok("vm", "exec", box, "--", "sh", "-c", "echo hello >/index.html; httpd -p 80 -h /")
    assert system.laboratory.ok("curl", "-s", f"http://{box}.vm/index.html", user=OWNER) == "hello\n"


def test_uninstalling_leaves_nothing(system: Installed) -> None:
    system.as_root("system", "uninstall", "--purge", "--stop")
    after = trace(system.laboratory)
    assert sorted(after - system.before) == []
    assert sorted(system.before - after) == []
