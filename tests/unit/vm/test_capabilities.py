"""Dispatch of capabilities: order, reverse clean-up, joined failures, and a prepare-host that fails half-way."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import cast

import pytest

from banger.guest.agent import Agent, FileToWrite
from banger.model.machine import Disk
from banger.model.records import VMRecord, VMSpec, VMState
from banger.vm.capabilities import Capabilities, Finding, GuestPart

SPEC = VMSpec(vcpu_count=1, memory_mib=512, system_overlay_bytes=1 << 30, work_disk_bytes=1 << 30)
RECORD = VMRecord(
    id="ab", name="box", image_id="i", image_name="i", state=VMState.CREATED, created_at=1.0, updated_at=1.0, touched_at=1.0, spec=SPEC
)  # fmt: skip


class Bare:
    """A capability with no hook at all."""

    name = "bare"


class Full:
    """A capability with every hook, which notes what is called; ``breaks`` names the hooks that fail."""

    def __init__(self, name: str, log: list[str], *breaks: str) -> None:
        self.name = name
        self._log = log
        self._breaks = breaks

    def _note(self, hook: str) -> None:
        self._log.append(f"{hook} {self.name}")
        if hook in self._breaks:
            raise OSError(f"{hook} {self.name} broke")

    async def check_start(self, record: VMRecord) -> None:
        self._note("check_start")

    async def prepare_host(self, record: VMRecord) -> None:
        self._note("prepare_host")
        if "hang" in self._breaks:
            await asyncio.sleep(60)

    def contribute_machine(self, record: VMRecord) -> tuple[Disk, ...]:
        return (Disk(serial=self.name, path=Path("/x"), read_only=False),)

    async def contribute_guest(self, record: VMRecord) -> GuestPart:
        return GuestPart(files=(FileToWrite(path=f"/{self.name}", content=b""),), work_disk=self.name == "b")

    async def post_start(self, record: VMRecord, agent: Agent) -> None:
        self._note("post_start")

    async def clean_up(self, vm_id: str) -> None:
        await asyncio.sleep(0)
        self._note("clean_up")

    async def apply_change(self, before: VMRecord, after: VMRecord) -> None:
        self._note("apply_change")

    async def check_host(self) -> list[Finding]:
        return [Finding(name=self.name, status="pass", detail="fine")]


async def test_hooks_run_in_order_and_clean_up_in_reverse() -> None:
    log: list[str] = []
    capabilities = Capabilities(Full("a", log), Bare(), Full("b", log))
    await capabilities.check_start(RECORD)
    await capabilities.prepare_host(RECORD)
    await capabilities.post_start(RECORD, cast(Agent, None))
    await capabilities.apply_change(RECORD, RECORD)
    await capabilities.clean_up("ab")
    assert log == [
        "check_start a", "check_start b", "prepare_host a", "prepare_host b", "post_start a", "post_start b", "apply_change a", "apply_change b",
        "clean_up b", "clean_up a",
    ]  # fmt: skip
    assert [disk.serial for disk in capabilities.contribute_machine(RECORD)] == ["a", "b"]
    part = await capabilities.contribute_guest(RECORD)
    assert ([file.path for file in part.files], part.work_disk) == (["/a", "/b"], True)
    assert [finding.name for finding in await capabilities.check_host()] == ["a", "b"]


async def test_every_clean_up_is_tried_and_the_failures_are_joined(caplog: pytest.LogCaptureFixture) -> None:
    log: list[str] = []
    capabilities = Capabilities(Full("a", log, "clean_up"), Full("b", log), Full("c", log, "clean_up"))
    with pytest.raises(ExceptionGroup) as caught:
        await capabilities.clean_up("ab")
    assert log == ["clean_up c", "clean_up b", "clean_up a"]
    assert [str(error) for error in caught.value.exceptions] == ["clean_up c broke", "clean_up a broke"]
    assert [record.__dict__["capability"] for record in caplog.records] == ["c", "a"]


async def test_a_failed_prepare_host_cleans_up_those_already_prepared() -> None:
    log: list[str] = []
    capabilities = Capabilities(Full("a", log, "clean_up"), Full("b", log, "prepare_host"), Full("c", log))
    with pytest.raises(ExceptionGroup) as caught:
        await capabilities.prepare_host(RECORD)
    assert log == ["prepare_host a", "prepare_host b", "clean_up b", "clean_up a"]
    assert [str(error) for error in caught.value.exceptions] == ["prepare_host b broke", "clean_up a broke"]


async def test_a_cancelled_prepare_host_cleans_up_too() -> None:
    log: list[str] = []
    capabilities = Capabilities(Full("a", log), Full("b", log, "hang"))
    task = asyncio.create_task(capabilities.prepare_host(RECORD))
    while "prepare_host b" not in log:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert log[2:] == ["clean_up b", "clean_up a"]
