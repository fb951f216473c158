"""``vm set``, ``vm prune`` and ``gc`` with real machines."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
from contextlib import closing

import pytest

from tests import oracle
from tests.e2e.instance import Instance, wait_until

pytestmark = pytest.mark.timeout(300)


def test_a_machine_grows_and_keeps_what_it_holds(instance: Instance) -> None:
    name = f"set-{os.urandom(3).hex()}"
    instance.ok("vm", "create", "--name", name, "--vcpu", "1", "--memory", "512M", "--disk-size", "128M", "--system-overlay-size", "128M")
    instance.ok("vm", "exec", name, "--", "sh", "-c", "seq 100000 > /root/file; seq 100000 > /etc/file")
    refused = instance.run("vm", "set", name, "--vcpu", "2")
    assert (refused.status, f"hint: banger vm stop {name}" in refused.err) == (1, True)
    # Pulled the plug: the journals of both disks have to be replayed before they grow.
    instance.ok("vm", "exec", name, "--", "sync")
    instance.ok("vm", "kill", name, "--signal", "KILL")
    instance.ok("vm", "set", name, "--vcpu", "2", "--memory", "640M", "--disk-size", "3G", "--system-overlay-size", "2G")
    shrunk = instance.run("vm", "set", name, "--disk-size", "1G")
    assert (shrunk.status, "cannot shrink" in shrunk.err) == (2, True)
    instance.ok("vm", "start", name)
    compare = "seq 100000 | cmp - /root/file && seq 100000 | cmp - /etc/file"
    script = f"nproc; {compare} && df -m --output=size /root / | tail -n +2; awk '/MemTotal/{{print $2}}' /proc/meminfo"
    count, work, root, memory = map(int, instance.ok("vm", "exec", name, "--", "sh", "-c", script).split())
    assert count == 2
    assert work > 2800
    assert root > 1850
    assert memory > 560 * 1024
    instance.ok("vm", "stop", name)
    assert name in instance.ok("vm", "prune", "--dry-run")
    assert name in instance.ok("vm", "prune", "--force")
    assert oracle.leftovers(instance) == []


def test_gc_ends_a_machine_that_has_no_row_and_nothing_else(sibling: Instance) -> None:
    sibling.ok("vm", "run", "-d", "--name", "kept")
    sibling.ok("vm", "run", "-d", "--name", "lost", "--nat")
    kept, lost = (sibling.json("vm", "show", name)["record"]["id"] for name in ("kept", "lost"))
    daemon = sibling.daemon_pid()
    assert daemon is not None
    os.kill(daemon, signal.SIGKILL)
    wait_until(lambda: sibling.daemon_pid() is None, "the daemon is dead")
    with closing(sqlite3.connect(sibling.state / "banger.db")) as database, database:
        database.execute("DELETE FROM vms WHERE id = ?", (lost,))
    shutil.rmtree(sibling.state / "vms" / lost)
    found = sibling.json("gc", "--dry-run")
    assert {one["vm_id"] for one in found} == {lost}
    assert {one["kind"] for one in found} == ({"machine", "network"} if shutil.which("passt") else {"machine"})
    assert all(one["removed"] for one in sibling.json("gc"))
    assert sibling.json("gc") == []
    sibling.kept.add(kept)
    wait_until(lambda: not oracle.processes(sibling), "nothing of the lost machine runs", 10)
    assert sibling.ok("vm", "exec", "kept", "--", "echo", "alive") == "alive\n"
