"""Every machine's process in bounds of its own, as systemd and cgroup v2 show them."""

from __future__ import annotations

from pathlib import Path

import pytest

from banger.model.limits import FIRST_VMM_UID
from tests.lab.conftest import Installed
from tests.lab.laboratory import STRANGER

pytestmark = pytest.mark.timeout(1200)
BUSY = "while :; do :; done"


def scope_of(system: Installed, machine: str) -> str:
    """The scope's directory in the hierarchy."""
    record = system.json("vm", "show", machine)["record"]
    found = system.laboratory.sh(f"find /sys/fs/cgroup -type d -name 'banger-{record['id']}.scope'").split()
    assert len(found) == 1, found
    return found[0]


def limit(system: Installed, scope: str, name: str) -> str:
    """A limit of the scope; where systemd has not needed its controller there is none."""
    return system.laboratory.sh(f"cat {scope}/{name} || echo max").strip()


def test_each_in_a_scope_as_a_user_of_its_own(system: Installed, box: str, peer: str) -> None:
    users = set()
    for machine in (box, peer):
        scope, pid = scope_of(system, machine), system.json("vm", "show", machine)["pid"]
        # The kernel puts a thread of its own beside it (kvm-nx-lpage-recovery).
        assert str(pid) in system.laboratory.sh(f"cat {scope}/cgroup.procs").split()
        uid, program, state = system.laboratory.sh(f"stat -c %u /proc/{pid}; cat /proc/{pid}/comm; systemctl is-active {Path(scope).name}").split()
        assert (program, state) == ("qemu-system-x86", "active")
        users.add(int(uid))
    assert len(users) == 2
    assert min(users) >= FIRST_VMM_UID


def test_a_process_of_a_machine_has_no_privileges(system: Installed, box: str) -> None:
    status = system.laboratory.sh(f"cat /proc/{system.json('vm', 'show', box)['pid']}/status")
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert {fields[name] for name in ("CapPrm", "CapEff", "CapBnd")} == {"0" * 16}
    assert fields["NoNewPrivs"] == "1"
    assert int(fields["Seccomp"]) > 0


def test_memory_and_processes_are_bounded(system: Installed, box: str) -> None:
    scope = scope_of(system, box)
    memory, swap, processes = system.laboratory.sh(f"cd {scope}; cat memory.max memory.swap.max pids.max").split()
    assert 256 << 20 < int(memory) < 1 << 30
    assert swap == "0"
    assert 0 < int(processes) < 10000


def test_cpu_quota_is_kept_and_changed_while_it_runs(system: Installed, box: str) -> None:
    scope = scope_of(system, box)
    assert limit(system, scope, "cpu.max").startswith("max")
    system.ok("vm", "set", "--cpu-quota", "25%", box)
    quota, period = map(int, limit(system, scope, "cpu.max").split())
    assert quota / period == 0.25
    system.ok("vm", "exec", box, "--", "sh", "-c", f"({BUSY}) & ({BUSY}) & sleep 5; kill %1 %2 2>/dev/null; true")
    throttled = next(line.split()[1] for line in system.laboratory.sh(f"cat {scope}/cpu.stat").splitlines() if line.startswith("nr_throttled "))
    assert int(throttled) > 0
    system.ok("vm", "set", "--cpu-quota", "0", box)
    assert limit(system, scope, "cpu.max").startswith("max")


def test_disks_keys_and_logs_are_the_owners_alone(system: Installed, box: str) -> None:
    """Neither another user nor the machine's own process, which has its files as descriptors, can open them by name."""
    record = system.json("vm", "show", box)["record"]
    uid = str(record["runtime"]["vmm_uid"])
    places = f"/var/lib/banger/vms/{record['id']} /var/lib/banger/ssh /var/lib/banger/bangerd.log /var/lib/banger/banger.db"
    script = f"for place in {places}; do ls $place 2>/dev/null; cat $place 2>/dev/null; done || :"
    assert system.laboratory.sh(script, user=STRANGER) == ""
    assert system.laboratory.ok("setpriv", "--reuid", uid, "--regid", uid, "--clear-groups", "sh", "-c", script) == ""


def test_the_scope_goes_with_the_machine(system: Installed) -> None:
    system.start("brief")
    scope = scope_of(system, "brief")
    system.ok("vm", "delete", "brief")
    assert system.laboratory.run("test", "-e", scope).status == 1
    assert system.laboratory.run("systemctl", "is-active", scope.rpartition("/")[2]).out.strip() in ("inactive", "unknown")
