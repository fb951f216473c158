"""The capabilities of access with fake machines: keys, pins and ports over the life of a machine."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from banger.access.sshd import HOST_KEY
from banger.guest.agent import Agent
from banger.host import run
from banger.host.paths import Layout
from banger.image.service import ImageService
from banger.model.errors import AlreadyExists, BadRequest, MissingTool, NotRunning
from banger.model.forwards import Forward, parse_forward
from banger.model.progress import silent
from banger.model.records import VMState
from banger.vm import published, ssh_access
from banger.vm.capabilities import Capabilities
from banger.vm.change import Change
from banger.vm.published import PublishedPorts
from banger.vm.service import Machines
from banger.vm.ssh_access import SshAccess
from banger.vm.work_disk import WorkDisk
from tests.unit.vm.fakes import FakeImages, FakeNetwork, FakeRootDisk, FakeVmm, layout_below
from tests.unit.vm.test_capabilities import RECORD
from tests.unit.vm.test_service import SMALL, Instance


class Accessible(Instance):
    """An instance whose machines have ssh and published ports."""

    def _machines(self) -> Machines:
        self.notes: list[str] = []
        self.ports = PublishedPorts(self._agent, self._hold, lambda _, why: self.notes.append(why))
        return Machines(
            layout=self.layout,
            database=self.database,
            images=cast(ImageService, FakeImages()),
            vmm=FakeVmm(self.world),
            root_disk=FakeRootDisk(),
            network=FakeNetwork(self.world),
            guest_deadline=5,
            capabilities=Capabilities(WorkDisk(self.layout), SshAccess(self.layout), self.ports),
        )

    def _agent(self, ref: str) -> Agent:
        return self.machines.agent(ref)

    def _hold(self, ref: str) -> Callable[[], None]:
        return self.machines.open_stream(ref)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    (tmp_path / "instance").mkdir()
    layout = layout_below(tmp_path / "instance")
    layout.vm(RECORD.id).root.mkdir(parents=True)
    return layout


async def test_keys_are_the_machines_own_and_stay(layout: Layout) -> None:
    ssh, other = SshAccess(layout), replace(RECORD, id="cd", name="other")
    layout.vm(other.id).root.mkdir()
    parts = []
    for record in (RECORD, other, RECORD):
        await ssh.prepare_host(record)
        part = await ssh.contribute_guest(record)
        parts.append({file.path: file.content for file in part.files})
        await ssh.clean_up(record.id)
    assert parts[0] == parts[2] and parts[0][HOST_KEY] != parts[1][HOST_KEY]
    pins = layout.ssh_known_hosts.read_text()
    assert [line.split()[0] for line in pins.splitlines()] == ["box.vm", "other.vm"]
    await ssh.forget(other.id)
    assert [line.split()[0] for line in layout.ssh_known_hosts.read_text().splitlines()] == ["box.vm"]
    again = SshAccess(layout)
    await again.resume([RECORD, other])
    assert layout.ssh_known_hosts.read_text() == pins  # both keys are still there
    assert layout.ssh_config.read_text().startswith("# Written by banger")
    assert layout.ssh.stat().st_mode & 0o777 == 0o700


async def test_a_start_that_fails_leaves_nothing_half_made(layout: Layout) -> None:
    ssh = SshAccess(layout)
    await ssh.prepare_host(RECORD)
    await ssh.clean_up(RECORD.id)
    assert not list(layout.state.rglob("*.staging"))
    await ssh.clean_up("never heard of")


async def test_a_host_without_ssh_keygen_has_machines_all_the_same(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Path:
        raise MissingTool(f"{name} is not installed", hint="install it")

    monkeypatch.setattr(run, "find_tool", missing)
    monkeypatch.setattr(ssh_access, "find_tool", missing)
    ssh = SshAccess(layout)
    await ssh.prepare_host(RECORD)
    assert (await ssh.contribute_guest(RECORD)).files == ()
    (finding,) = await ssh.check_host()
    assert finding.status == "warn" and "vm shell" in finding.detail


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
async def instance(tmp_path: Path) -> AsyncIterator[Accessible]:
    (tmp_path / "i").mkdir()
    instance = Accessible(tmp_path / "i")
    yield instance
    await instance.machines.close()
    for _ in range(10):  # connections that were just accepted get their end
        await asyncio.sleep(0)
    await instance.world.close()
    instance.database.close()


def publishing(port: int, guest: int = 80) -> Forward:
    return parse_forward(f"{port}:{guest}")


async def test_a_port_is_open_while_the_machine_runs(instance: Accessible) -> None:
    port = free_port()
    record = await instance.create(replace(SMALL, name="box", publish=(publishing(port),)))
    assert listens(port) and instance.ports.published(record)[0].open
    await instance.machines.stop("box", timeout=5, report=silent)
    assert not listens(port)
    record = await instance.machines.start("box", wait_booted=False, report=silent)
    assert listens(port) and record.spec.publish == (publishing(port),)
    await instance.machines.delete("box", report=silent)
    assert not listens(port) and instance.layout.ssh_known_hosts.read_text() == ""


async def test_a_taken_port_leaves_everything_as_it_was(instance: Accessible) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        with pytest.raises(AlreadyExists, match="is taken"):
            await instance.create(replace(SMALL, name="box", publish=(publishing(taken),)))
        assert instance.machines.list() == ()
        await instance.create(replace(SMALL, name="box", start=False, publish=(publishing(taken),)))
        before = instance.machines.find("box")
        with pytest.raises(AlreadyExists):
            await instance.machines.start("box", wait_booted=False, report=silent)
        assert instance.machines.find("box") == before
    assert (await instance.machines.start("box", wait_booted=False, report=silent)).state is VMState.RUNNING
    assert listens(taken)


async def test_ports_change_while_it_runs(instance: Accessible) -> None:
    first, second = free_port(), free_port()
    await instance.create(replace(SMALL, name="box", publish=(publishing(first),)))
    await instance.machines.change("box", Change(publish=(publishing(second),)), report=silent)
    assert listens(first) and listens(second)
    await instance.machines.change("box", Change(unpublish=(str(first),), publish=(publishing(second),)), report=silent)
    assert not listens(first) and listens(second)
    await instance.machines.change("box", Change(unpublish=(str(second),), publish=(publishing(second, 81),)), report=silent)
    assert instance.machines.find("box").spec.publish == (publishing(second, 81),)
    with socket.create_server(("127.0.0.1", 0)) as server:
        before = instance.machines.find("box")
        with pytest.raises(AlreadyExists):
            await instance.machines.change("box", Change(publish=(publishing(server.getsockname()[1]),)), report=silent)
        with pytest.raises(BadRequest, match="given twice"):
            await instance.machines.change("box", Change(publish=(publishing(second, 82),)), report=silent)
        assert instance.machines.find("box") == before
    await instance.machines.stop("box", timeout=5, report=silent)
    await instance.machines.change("box", Change(unpublish=(str(second),)), report=silent)
    assert instance.machines.find("box").spec.publish == ()


async def test_the_next_daemon_opens_what_is_free(instance: Accessible) -> None:
    kept, lost = free_port(), free_port()
    await instance.create(replace(SMALL, name="box", publish=(publishing(kept), publishing(lost, 81))))
    await instance.machines.close()
    assert not listens(kept)
    with socket.create_server(("127.0.0.1", lost)):
        await instance.restart_daemon()
        machines = instance.machines
        states = instance.ports.published(machines.find("box"))
        assert [(one.open, "is taken" in one.error) for one in states] == [(True, False), (False, True)]
        assert listens(kept) and instance.notes == [states[1].error]
    await machines.change("box", Change(unpublish=(str(lost),)), report=silent)
    assert all(one.open for one in instance.ports.published(machines.find("box")))


async def test_a_port_that_is_free_again_is_opened(instance: Accessible, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "RETRY_SECONDS", 0.01)
    port = free_port()
    await instance.create(replace(SMALL, name="box", publish=(publishing(port),)))
    await instance.machines.close()
    with socket.create_server(("127.0.0.1", port)):
        await instance.restart_daemon()
        await asyncio.sleep(0.05)
        assert not any(one.open for one in instance.ports.published(instance.machines.find("box")))
    async with asyncio.timeout(20):
        while not listens(port):
            await asyncio.sleep(0.01)
    (state,) = instance.ports.published(instance.machines.find("box"))
    assert (state.open, state.error, len(instance.notes)) == (True, "", 1)


async def test_forwards_end_with_the_run(instance: Accessible) -> None:
    record = await instance.create(replace(SMALL, name="box"))
    ended: list[int] = []
    held = await instance.ports.forward(record, (parse_forward("0:80"), parse_forward("0:81")))
    held.on_end = lambda: ended.append(1)
    ports = [one.host_port for one in held.forwards]
    assert all(map(listens, ports))
    other = await instance.ports.forward(record, (parse_forward("0:80"),))
    other.close()
    assert not listens(other.forwards[0].host_port) and all(map(listens, ports))
    await instance.machines.stop("box", timeout=5, report=silent)
    assert ended == [1] and held.ended and not other.ended and not any(map(listens, ports))
    held.close()
    with pytest.raises(NotRunning):
        await instance.ports.forward(record, (parse_forward("0:80"),))
