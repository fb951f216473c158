"""SIGKILL of the helper inside each verb: the next helper repairs or undoes it by the same verbs, which need nothing but ids and slots."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from banger.helper.client import HelperClient
from banger.helper.protocol import Launch
from banger.host.process import command_lines
from banger.model.errors import BangerError
from banger.model.limits import LAST_VMM_UID
from banger.model.machine import Limits
from tests.fakes.helper_process import FOREIGN_SLOT, Namespace, installed, namespace, run, running
from tests.fakes.privileged import PLAN, QEMU_ARGUMENTS, VM

pytestmark = [pytest.mark.root, pytest.mark.timeout(240)]

DELAYS = (0.001, 0.004, 0.012, 0.03)
"""Seconds from the request to the SIGKILL. A verb takes 2 to 40 ms, so that some of them hit it in its middle."""
LAUNCH = Launch(vm_id=VM, program="qemu", arguments=QEMU_ARGUMENTS, uid=LAST_VMM_UID, limits=Limits(memory_max_bytes=2**31, pids_max=64), kvm=False)
Verb = Callable[[HelperClient], Awaitable[object]]

VERBS: dict[str, Verb] = {
    "ensure_network": lambda client: client.ensure_network(),
    "warm_taps": lambda client: client.warm_taps([3, 4, 5, 6]),
    "attach_tap": lambda client: client.attach_tap(VM, 2, nat=True),
    "set_nat": lambda client: client.set_nat({"10.213.0.2": True, "10.213.0.3": True}),
    "release_taps": lambda client: client.release_taps([2, 3, 4, 5, 6], keep=False),
    "remove_network": lambda client: client.remove_network(),
}


@pytest.fixture
def place() -> Iterator[Namespace]:
    with namespace() as inside:
        yield inside


@pytest.fixture
def directory() -> Iterator[Path]:
    with installed() as made:
        yield made


async def kill_inside(place: Namespace, directory: Path, verb: Verb, delay: float, before: Verb | None = None) -> None:
    with running(place, directory) as helper:
        client = HelperClient(helper.socket, call_seconds=20)
        if before is not None:
            await before(client)
        call = asyncio.ensure_future(verb(client))
        await asyncio.sleep(delay)
        helper.process.kill()
        helper.process.wait(10)
        helper.socket.unlink()
        await asyncio.gather(call, return_exceptions=True)


async def prepare(client: HelperClient) -> None:
    await client.ensure_network()
    await client.attach_tap(VM, 2, nat=True)
    await client.warm_taps([3, 4])


@pytest.mark.parametrize("name", VERBS)
async def test_the_network_is_repaired_and_then_removed(place: Namespace, directory: Path, name: str) -> None:
    untouched = place.snapshot()
    for delay in DELAYS:
        await kill_inside(place, directory, VERBS[name], delay, None if name == "ensure_network" else prepare)
        with running(place, directory) as helper:
            client = HelperClient(helper.socket, call_seconds=20)
            await prepare(client)
            state = await client.inspect_network()
            assert {2, 3, 4} <= set(state.taps)
            assert "10.213.0.2" in state.nat
            assert [one for one in state.warnings if "is missing" in one] == []
            await client.release_taps([2, 3, 4, 5, 6], keep=False)
            await client.remove_network()
        assert place.snapshot() == untouched
    links = [one["ifname"] for one in json.loads(run("ip", "-n", place.name, "-j", "link"))]
    assert links == ["lo", "victim0", PLAN.tap(FOREIGN_SLOT)]


def vmms() -> list[int]:
    return [pid for pid, words in command_lines() if f"banger-{VM}".encode() in words]


async def test_a_launch_leaves_nothing_that_cannot_be_found(place: Namespace, directory: Path) -> None:
    """As a daemon's journal undoes it: what is there of the machine is signalled, and its group goes."""
    null = os.open("/dev/null", os.O_RDWR)
    try:
        for delay in (*DELAYS, 0.1):
            await kill_inside(place, directory, lambda client: client.launch_vmm(LAUNCH, [null] * 3), delay)
            with running(place, directory) as helper:
                await undo(HelperClient(helper.socket, call_seconds=20))
            assert vmms() == []
    finally:
        os.close(null)


async def undo(client: HelperClient) -> None:
    for _ in range(100):
        if process := (await client.list_vmms()).get(VM):
            await client.signal_vmm(VM, process, "KILL")
        try:
            await client.release_vmm(VM)
            return
        except BangerError:
            await asyncio.sleep(0.05)
    raise AssertionError("the machine's group does not go away")
