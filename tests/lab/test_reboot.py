"""The host is booted again: services come by themselves, and the machines that were chosen with them."""

from __future__ import annotations

import time

import pytest

from tests.lab.conftest import Installed

pytestmark = pytest.mark.timeout(1200)


def test_chosen_machines_come_back(system: Installed) -> None:
    system.start("chosen", "--autostart")
    system.start("other")
    system.ok("vm", "exec", "chosen", "--", "sh", "-c", "echo kept >/kept; sync")
    address = system.json("vm", "show", "chosen")["record"]["runtime"]["address"]
    try:
        system.laboratory.reboot()
        deadline = time.monotonic() + 200
        while (states := {row["name"]: row["state"] for row in system.json("vm", "list")}) != {"chosen": "running", "other": "stopped"}:
            assert time.monotonic() < deadline, states
            time.sleep(2)
        assert system.ok("vm", "exec", "chosen", "--", "cat", "/kept") == "kept\n"
        assert system.json("vm", "show", "chosen")["record"]["runtime"]["address"] == address
        assert "1 received" in system.laboratory.ok("ping", "-q", "-c", "1", "-W", "10", "chosen.vm")
    finally:
        for name in ("chosen", "other"):
            system.forget(name)
