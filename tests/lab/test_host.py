"""What the laboratory is, and banger in it as any user has it: without an installation, without root, with hardware virtualisation."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.lab.inside import Inside
from tests.lab.laboratory import OWNER, Laboratory

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def own(laboratory: Laboratory) -> Iterator[Inside]:
    """The ordinary user's own instance, with an image to start from."""
    instance = Inside(laboratory, OWNER, home=f"/home/{OWNER}/own")
    instance.import_guest()
    yield instance
    instance.delete_everything()


def test_it_is_a_host_with_everything(laboratory: Laboratory) -> None:
    script = "systemctl is-system-running; stat -fc %T /sys/fs/cgroup; cat /sys/fs/cgroup/cgroup.controllers; stat -c '%A %G' /dev/kvm; dmsetup targets; lsmod"
    running, filesystem, controllers, kvm, rest = laboratory.sh(script).split("\n", 4)
    assert (running, filesystem) == ("running", "cgroup2fs")
    assert {"cpu", "memory", "io", "pids"} <= set(controllers.split())
    assert kvm == "crw-rw---- kvm"
    assert "snapshot" in rest
    assert {"tun", "bridge", "nf_tables", "vhost_vsock"} <= {line.split()[0] for line in rest.splitlines() if line}


def test_resolved_answers(laboratory: Laboratory) -> None:
    assert laboratory.ok("resolvectl", "query", "--legend=no", "localhost").startswith("localhost: 127.0.0.1")


def test_doctor_finds_virtualisation(own: Inside) -> None:
    checks = {check["name"]: check for check in json.loads(own.run("doctor", "--json").out)}
    assert checks["kvm"]["status"] == "pass", checks["kvm"]
    assert [check for check in checks.values() if check["status"] == "fail"] == []


def test_a_machine_runs_on_kvm(own: Inside) -> None:
    assert own.ok("vm", "run", "--rm", "--image", "tiny", "--", "uname", "-s") == "Linux\n"
    probes = own.laboratory.ok("cat", f"{own.home}/cache/probe/qemu.json", user=OWNER)
    assert [probe["accelerator"] for probe in json.loads(probes)["probes"].values()] == ["kvm"]
