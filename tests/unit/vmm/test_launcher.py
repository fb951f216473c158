"""Launchers: what signals what, and what becomes of a machine that cannot have bounds."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from banger.helper.protocol import Launch
from banger.host import process
from banger.model.errors import BadRequest, CommandFailed
from banger.model.machine import Limits
from banger.model.records import ProcessIdentity
from banger.vmm.launcher import ConfinedLauncher, DirectLauncher
from tests.unit.helper.vmms.test_arguments import VM_ID, arguments

LAUNCH = Launch(vm_id=VM_ID, program="qemu", arguments=tuple(arguments()), uid=-1, limits=Limits(), kvm=False)


class NoVmms:
    """Verbs that refuse everything."""

    released: list[str]

    def __init__(self) -> None:
        self.released = []

    async def launch_vmm(self, launch: Launch, descriptors: Sequence[int]) -> ProcessIdentity:
        raise CommandFailed("busctl failed: no bus")

    async def signal_vmm(self, vm_id: str, process: ProcessIdentity, signal: str) -> bool:
        raise BadRequest("not the machine's VMM")

    async def list_vmms(self) -> Mapping[str, ProcessIdentity]:
        return {}

    async def limit_vmm(self, vm_id: str, limits: Limits) -> None:
        raise AssertionError

    async def release_vmm(self, vm_id: str) -> None:
        self.released.append(vm_id)


class NoGroups:
    def machines(self) -> frozenset[str]:
        return frozenset({"f" * 32})


def confined(otherwise: DirectLauncher | None) -> ConfinedLauncher:
    return ConfinedLauncher(NoVmms(), cast("Any", NoGroups()), own_uids=False, otherwise=otherwise)


@pytest.fixture
def direct(tmp_path: Path) -> DirectLauncher:
    program = tmp_path / "sleeper"
    program.write_text("#!/bin/sh\nexec sleep 1000\n")
    program.chmod(0o755)
    return DirectLauncher(find=lambda _: program)


async def test_what_cannot_have_bounds_runs_without_unless_a_limit_was_asked_for(direct: DirectLauncher, tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log:
        fds = [os.open("/dev/null", os.O_RDWR)] * 9 + [log.fileno()]
        try:
            vmm = await confined(direct).launch(LAUNCH, fds)
            assert await direct.signal(VM_ID, vmm, "KILL")
            await process.wait_exit(vmm)
            with pytest.raises(CommandFailed, match="no bus"):
                await confined(direct).launch(replace(LAUNCH, limits=Limits(cpu_quota=1)), fds)
            with pytest.raises(CommandFailed, match="no bus"):
                await confined(None).launch(LAUNCH, fds)
        finally:
            os.close(fds[0])


async def test_a_machine_of_before_without_bounds_is_signalled_as_far_as_the_kernel_lets_us() -> None:
    with subprocess.Popen(["sleep", "1000"]) as child:
        identity = process.identify(child.pid)
        assert await confined(None).signal(VM_ID, identity, "KILL")
        child.wait()
        assert not await confined(None).signal(VM_ID, identity, "KILL")


async def test_nothing_is_asked_for_a_machine_without_a_group() -> None:
    vmms = NoVmms()
    launcher = ConfinedLauncher(vmms, cast("Any", NoGroups()), own_uids=True)
    await launcher.release(VM_ID)
    await launcher.release("f" * 32)
    assert vmms.released == ["f" * 32]
