"""Machines that the first daemon after a boot of the host starts: real Machines over fake drivers, and boots that are told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from banger.host import facts
from banger.host.paths import Layout
from banger.image.service import ImageService
from banger.model.errors import BadRequest, BangerError, VmmError
from banger.model.progress import Report, silent
from banger.model.records import VMRecord, VMState
from banger.store import Database, ImageTable
from banger.vm.autostart import AT_ONCE, Autostart
from banger.vm.autostop import carry_out_unseen
from banger.vm.capabilities import Capabilities
from banger.vm.change import Change
from banger.vm.create import NewVM
from banger.vm.service import Machines
from tests.unit.vm.fakes import IMAGE, FakeImages, FakeNetwork, FakeRootDisk, FakeVmm, FakeWorld, layout_below

SMALL = NewVM(name="box", system_overlay_bytes=64 << 20, work_disk_bytes=64 << 20, start=False)


class Host:
    """Daemons one after another on a host that can boot."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.layout: Layout = layout_below(directory)
        self.world = FakeWorld(directory)
        self.database = Database.open(self.layout.database)
        self._monkeypatch = monkeypatch
        ImageTable(self.database).insert(IMAGE)
        self.boot("first")

    def boot(self, boot_id: str) -> None:
        self._monkeypatch.setattr(facts, "boot_id", lambda: boot_id)

    async def up(self) -> Machines:
        """A daemon that has recovered and ended what autostart has to do."""
        autostart = Autostart(
            self.layout.boot_note, start=lambda vm_id, report: machines.start(vm_id, wait_booted=False, report=report), carry_out=carry_out_unseen
        )
        machines = Machines(
            layout=self.layout,
            database=self.database,
            images=cast(ImageService, FakeImages()),
            vmm=FakeVmm(self.world),
            root_disk=FakeRootDisk(),
            network=FakeNetwork(self.world),
            guest_deadline=5,
            capabilities=Capabilities(autostart),
        )
        await machines.recover()
        if autostart._task is not None:
            await autostart._task
        return machines


async def test_only_the_first_daemon_after_a_boot_starts_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(tmp_path, monkeypatch)
    machines = await host.up()
    await machines.create(replace(SMALL, autostart=True), silent, lambda _: None)
    await machines.create(replace(SMALL, name="other"), silent, lambda _: None)
    await machines.close()

    machines = await host.up()
    assert machines.find("box").state is VMState.STOPPED, "the host has not booted"
    await machines.close()

    host.boot("second")
    machines = await host.up()
    assert machines.find("box").state is VMState.RUNNING
    assert machines.find("other").state is VMState.STOPPED
    await machines.stop("box", timeout=1, report=silent)
    await machines.close()

    machines = await host.up()
    assert machines.find("box").state is VMState.STOPPED, "who stopped it after the boot meant it"
    await machines.close()


async def test_it_can_be_set_at_any_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(tmp_path, monkeypatch)
    machines = await host.up()
    await machines.create(replace(SMALL, start=True), silent, lambda _: None)
    assert (await machines.change("box", Change(autostart=True), report=silent)).spec.autostart
    assert not (await machines.change("box", Change(autostart=False), report=silent)).spec.autostart
    with pytest.raises(BadRequest, match="deleted with its command"):
        await machines.create(replace(SMALL, name="short", autostart=True, remove=True), silent, lambda _: None)
    await machines.delete("box", report=silent)
    await machines.close()


def records(count: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], list[VMRecord]]:
    host = Host(tmp_path, monkeypatch)
    spec = NewVM(system_overlay_bytes=64 << 20, work_disk_bytes=64 << 20, start=False, autostart=True)

    async def make() -> list[VMRecord]:
        machines = await host.up()
        made = [await machines.create(replace(spec, name=f"box{i}"), silent, lambda _: None) for i in range(count)]
        await machines.close()
        return made

    return lambda: asyncio.run(make())


def test_one_that_fails_keeps_no_other_from_it_and_few_start_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = records(5, monkeypatch, tmp_path)()
    under_way, most, tried = 0, 0, []

    async def start(vm_id: str, report: Report) -> None:
        nonlocal under_way, most
        tried.append(vm_id)
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.01)
        under_way -= 1
        if len(tried) % 2:
            raise VmmError("no") if len(tried) % 3 else BangerError("neither")

    note = tmp_path / "note"

    async def run() -> None:
        autostart = Autostart(note, start=start, carry_out=carry_out_unseen)
        await autostart.resume(made)
        assert autostart._task is not None
        await autostart._task

    asyncio.run(run())
    assert sorted(tried) == sorted(record.id for record in made)
    assert most == AT_ONCE
    assert note.read_text() == "first"


async def test_a_daemon_that_ends_meanwhile_leaves_it_to_the_next(tmp_path: Path) -> None:
    async def never(vm_id: str, report: Report) -> None:
        await asyncio.Event().wait()

    record = cast(VMRecord, type("Record", (), {"id": "x", "name": "x", "spec": type("Spec", (), {"autostart": True})})())
    autostart = Autostart(tmp_path / "note", start=never, carry_out=carry_out_unseen)
    await autostart.resume([record])
    await asyncio.sleep(0)
    await autostart.close()
    assert not (tmp_path / "note").exists()
