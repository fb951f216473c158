"""What machines use, whether they answer, what listens in them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from banger.guest.agent import Listener
from banger.guest.fields import nested, pack, text, u32, u64
from banger.guest.frames import Operation
from banger.model.errors import GuestError, GuestTimeout, NotFound, NotRunning
from banger.model.progress import silent
from banger.vm.observe import merge
from tests.unit.vm.test_autostop import SMALL, Instance

STATS = pack(
    (16, u64(5_000_000)), (17, u64(1 << 30)), (18, u64(1 << 29)), (19, u32(250)), (21, u32(7)), (20, nested((1, text("/")), (2, u64(100)), (3, u64(40))))
)  # fmt: skip


def listening(protocol: str, address: str, port: int, process: str = "nginx", pid: int = 1) -> Listener:
    return Listener(protocol=protocol, address=address, port=port, pid=pid, process=process, command=f"{process} -x")


@pytest.fixture
async def instance(tmp_path: Path) -> AsyncIterator[Instance]:
    instance = Instance(tmp_path)
    instance.world.answers[Operation.STATS] = STATS
    await instance.up()
    await instance.create(SMALL)
    yield instance
    await instance.machines.close()
    await instance.world.close()
    instance.database.close()


async def test_usage_of_a_running_machine(instance: Instance) -> None:
    usage = await instance.machines.usage("box")
    assert usage.process is not None and usage.guest is not None
    assert usage.process.pid == instance.machines.status("box").pid
    assert usage.process.rss > 0
    assert 0 <= usage.process.cpu_percent < 100
    assert usage.process.cpu_window >= 0.1
    assert (usage.guest.load, usage.guest.memory_available, usage.guest.processes) == (0.25, 1 << 29, 7)
    assert usage.guest.file_systems[0].path == "/"
    assert usage.work_allocated > 0


async def test_the_window_of_the_next_look_begins_at_the_last_one(instance: Instance) -> None:
    first = (await instance.machines.usage("box")).collected_at
    process = (second := await instance.machines.usage("box")).process
    assert process is not None
    assert process.cpu_window <= second.collected_at - first + 1


async def test_usage_of_a_stopped_machine_is_its_disks(instance: Instance) -> None:
    await instance.machines.stop("box", timeout=5, report=silent)
    usage = await instance.machines.usage("box")
    assert (usage.process, usage.guest, usage.guest_error) == (None, None, "")
    assert usage.work_allocated > 0
    with pytest.raises(NotFound):
        await instance.machines.usage("ghost")


async def test_a_guest_that_does_not_answer_costs_only_its_part(instance: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("banger.vm.observe._ANSWER_SECONDS", 0.1)
    instance.world.silent |= {Operation.STATS, Operation.LISTENERS}
    usage = await instance.machines.usage("box")
    assert usage.process is not None
    assert (usage.guest, usage.guest_error) == (None, "the agent did not answer within 0.1 s")
    with pytest.raises(GuestTimeout, match="box did not answer"):
        await instance.machines.ports("box")


async def test_nobody_is_asked_while_nobody_looks(instance: Instance) -> None:
    assert instance.world.operations == []


async def test_health(instance: Instance) -> None:
    health = await instance.machines.health("box")
    assert (health.alive, health.healthy) == (True, True)
    assert health.guest_state in ("ready", "booted")
    assert health.round_trip is not None and health.round_trip < 3
    live = instance.machines._services.live[instance.machines.find("box").id]
    agent, live.agent = live.agent, None
    with pytest.raises(GuestError, match="does not answer"):
        await instance.machines.health("box")
    live.agent = agent
    await instance.machines.stop("box", timeout=5, report=silent)
    health = await instance.machines.health("box")
    assert (health.alive, health.healthy, health.round_trip) == (False, False, None)


async def test_ports(instance: Instance) -> None:
    one = nested((1, text("tcp")), (2, text("0.0.0.0")), (3, u32(80)), (4, u32(9)), (5, text("nginx")), (6, text("nginx")))
    instance.world.answers[Operation.LISTENERS] = pack((16, one))
    (port,) = await instance.machines.ports("box")
    assert (port.protocol, port.port, port.process, port.endpoint) == ("tcp", 80, "nginx", "")
    await instance.machines.stop("box", timeout=5, report=silent)
    with pytest.raises(NotRunning):
        await instance.machines.ports("box")


def test_one_process_on_both_protocols_is_one_port() -> None:
    found = merge((
        listening("tcp6", "::", 443),
        listening("tcp", "0.0.0.0", 443),
        listening("tcp", "0.0.0.0", 443, pid=2),
        listening("udp", "0.0.0.0", 443),
        listening("tcp", "127.0.0.1", 53, "dns"),
        listening("tcp", "127.0.0.2", 53, "other"),
    ))  # fmt: skip
    assert [(one.port, one.protocol, one.process, one.addresses) for one in found] == [
        (53, "tcp", "dns", ("127.0.0.1",)),
        (53, "tcp", "other", ("127.0.0.2",)),
        (443, "tcp", "nginx", ("::", "0.0.0.0")),
        (443, "udp", "nginx", ("0.0.0.0",)),
    ]
