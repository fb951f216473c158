from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys
from pathlib import Path

import pytest

from banger.daemon.leases import Leases
from banger.daemon.operations import Operation, Operations
from banger.model.errors import BadRequest, VmmError
from banger.model.opid import current_op_id, new_op_id
from tests.unit.daemon.harness import FakeMachines, Running


async def until_idle(leases: Leases) -> None:
    await leases.close(deadline=5.0)


async def test_the_end_of_a_lease_deletes_its_machines_and_only_those(tmp_path: Path) -> None:
    machines = FakeMachines(tmp_path)
    leases = Leases(machines)
    mine, other = machines.add(name="mine"), machines.add(name="other")
    lease = leases.create()
    lease.vms.add(mine.id)
    assert leases.find(lease.id) is lease
    leases.end(lease)
    leases.end(lease)
    with pytest.raises(BadRequest, match="ended"):
        leases.find(lease.id)
    await until_idle(leases)
    assert machines.list() == (other,)


async def test_a_deletion_that_fails_is_tried_again_and_in_the_end_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    machines = FakeMachines(tmp_path)
    leases = Leases(machines, retries=(0.0, 0.0))
    lease = leases.create()
    lease.vms.add(machines.add().id)
    machines.delete_errors = [VmmError("busy"), OSError("odd")]
    leases.end(lease)
    await until_idle(leases)
    assert machines.list() == ()

    hopeless = leases.create()
    hopeless.vms.add(machines.add().id)
    machines.delete_errors = [VmmError("busy")] * 3
    with caplog.at_level(logging.ERROR):
        leases.end(hopeless)
        await until_idle(leases)
    assert len(machines.list()) == 1
    assert caplog.messages[-1] == "cannot delete a machine whose lease has ended"


async def test_a_machine_that_its_owner_deleted_is_no_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    leases = Leases(FakeMachines(tmp_path))
    lease = leases.create()
    lease.vms.add("gone")
    leases.end(lease)
    await until_idle(leases)
    assert not [one for one in caplog.records if one.levelno >= logging.WARNING]


async def test_a_creation_under_way_is_cancelled_before_anything_is_deleted(tmp_path: Path) -> None:
    machines = FakeMachines(tmp_path)
    leases = Leases(machines)
    lease = leases.create()
    order: list[str] = []

    async def work(operation: Operation) -> None:
        lease.creations.add(operation)
        lease.vms.add(machines.add().id)
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)
            order.append(f"rolled back with {len(machines.list())}")
            lease.creations.discard(operation)

    current_op_id.set(new_op_id())
    Operations().start("vm.create", "", work)
    await asyncio.sleep(0)
    leases.end(lease)
    await until_idle(leases)
    assert order == ["rolled back with 1"] and machines.list() == ()


# -- through the daemon ------------------------------------------------------------------------------------------------------------------------------


async def test_rm_the_machine_goes_when_the_connection_closes(daemon: Running) -> None:
    lease = (await daemon.call("POST", "/v1/leases")).json
    wire = await daemon.attach()
    assert await wire.hello(lease["token"]) == {"ok": True}
    created = await daemon.call("POST", "/v1/vms?wait", {"name": "box", "lease": lease["id"]})
    assert created.lines[-1]["result"]["remove"] is True
    assert daemon.machines.new[0].remove is True and len(daemon.machines.list()) == 1
    await wire.close()
    await daemon.machines.deleted.wait()
    assert daemon.machines.list() == ()
    late = await daemon.call("POST", "/v1/vms?wait", {"lease": lease["id"]})
    assert late.lines[-1]["error"]["code"] == "bad_request"


@pytest.mark.parametrize("reserved", [False, True])
async def test_rm_a_boot_under_way_is_cancelled_when_the_connection_closes(daemon: Running, reserved: bool) -> None:
    (daemon.machines.may_boot if reserved else daemon.machines.may_reserve).clear()
    lease = (await daemon.call("POST", "/v1/leases")).json
    wire = await daemon.attach()
    await wire.hello(lease["token"])
    operation = (await daemon.call("POST", "/v1/vms", {"lease": lease["id"]})).json
    if reserved:
        await daemon.machines.reserved.wait()
    await wire.close()
    await daemon.machines.cancelled.wait()
    last = (await daemon.call("GET", f"/v1/operations/{operation['id']}/events")).lines[-1]
    assert last["error"]["code"] == "cancelled"
    await daemon.context.leases.close(deadline=5.0)
    assert daemon.machines.list() == ()


async def test_rm_the_machine_goes_when_the_client_is_killed(daemon: Running) -> None:
    program = (
        "import socket, sys, json, time; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); "
        "s.sendall(json.dumps({'token': sys.argv[2]}).encode() + b'\\n'); print(s.recv(100).decode(), flush=True); time.sleep(60)"
    )
    lease = (await daemon.call("POST", "/v1/leases")).json
    client = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-c", program, str(daemon.layout.attach_socket), lease["token"], stdout=asyncio.subprocess.PIPE
    )
    assert client.stdout is not None
    assert json.loads(await client.stdout.readline()) == {"ok": True}
    await daemon.call("POST", "/v1/vms?wait", {"name": "box", "lease": lease["id"]})
    client.send_signal(signal.SIGKILL)
    await client.wait()
    await daemon.machines.deleted.wait()
    assert daemon.machines.list() == ()


async def test_rm_an_unclaimed_lease_expires_with_its_machines(daemon: Running) -> None:
    lease = (await daemon.call("POST", "/v1/leases")).json
    await daemon.call("POST", "/v1/vms?wait", {"name": "box", "lease": lease["id"]})
    assert len(daemon.machines.list()) == 1
    daemon.context.tokens._expire(lease["token"])
    await daemon.machines.deleted.wait()


async def test_rm_stopping_the_daemon_deletes_what_was_leased(daemon: Running) -> None:
    lease = (await daemon.call("POST", "/v1/leases")).json
    wire = await daemon.attach()
    await wire.hello(lease["token"])
    await daemon.call("POST", "/v1/vms?wait", {"name": "box", "lease": lease["id"]})
    daemon.machines.add(name="kept")
    await daemon.stop()
    assert [one.name for one in daemon.machines.list()] == ["kept"]
    await wire.close()
