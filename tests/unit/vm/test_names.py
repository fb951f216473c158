"""Names over the life of machines, and over that of the daemon, the bridge and the host's resolver."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from ipaddress import IPv4Address
from typing import cast

import pytest

from banger.guest.agent import Agent
from banger.host.bound_ports import bind_pair
from banger.model.errors import AlreadyExists, HelperUnreachable
from banger.model.network import network_plan
from banger.model.records import VMRecord, VMState
from banger.vm import name_checks
from banger.vm import names as names_module
from banger.vm.names import VmNames
from tests.unit.net.dns.oracle import data, dig, question
from tests.unit.net.dns.test_server import bind_at_any_port
from tests.unit.vm.test_capabilities import RECORD

PLAN = network_plan("bngtest0", "172.30.86.0/24")
AGENT = cast(Agent, None)
BOX = replace(RECORD, name="box", state=VMState.RUNNING, runtime=replace(RECORD.runtime, address="172.30.86.2"))


class FakeNames:
    """NameOps without privileges: the guests' face is at a port of the loopback."""

    def __init__(self) -> None:
        self.routed: list[int] = []
        self.cleared = 0
        self.recipe = ""
        self.broken = False
        self.guests_taken = False
        self.pair = bind_at_any_port()
        self.guests_port: int = self.pair[0].getsockname()[1]
        self.bound = False

    async def bind_dns(self) -> tuple[socket.socket, socket.socket]:
        if self.guests_taken:
            raise AlreadyExists("udp port 53 of 172.30.86.1 is held by dnsmasq (pid 1)", hint="stop it")
        self.bound = True
        return self.pair

    async def route_resolver(self, port: int) -> str:
        self.routed.append(port)
        if self.broken:
            raise HelperUnreachable("the helper does not answer")
        return self.recipe

    async def clear_resolver(self) -> None:
        self.cleared += 1
        if self.broken:
            raise HelperUnreachable("the helper does not answer")


class World:
    """A capability, its operations and its port."""

    def __init__(self) -> None:
        datagrams, stream = bind_at_any_port()
        self.port: int = datagrams.getsockname()[1]
        datagrams.close()
        stream.close()
        self.ops = FakeNames()
        self.names = VmNames(self.ops, PLAN, self.port, upstreams=lambda: [])

    async def ask(self, name: str) -> str:
        return (await dig("@127.0.0.1", "-p", str(self.port), "+short", name)).strip()


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(names_module, "WATCH_SECONDS", 0.02)
    found = World()
    yield found
    await found.names.close()
    if not found.ops.bound:
        for sock in found.ops.pair:
            sock.close()


async def until(true: Callable[[], bool | Awaitable[bool]]) -> None:
    async with asyncio.timeout(10):
        while True:
            value = true()
            if value if isinstance(value, bool) else await value:
                return
            await asyncio.sleep(0.01)


def with_nat(record: VMRecord, *, nat: bool) -> VMRecord:
    return replace(record, spec=replace(record.spec, nat=nat))


async def test_a_machine_has_its_name_from_ready_to_the_end_of_its_run(world: World) -> None:
    await world.names.resume([])
    await world.names.prepare_host(BOX)
    assert await world.ask("box.vm") == ""
    await world.names.post_start(BOX, AGENT)
    assert await world.ask("www.box.vm") == "172.30.86.2"
    await until(lambda: bool(world.ops.routed))
    assert set(world.ops.routed) == {world.port}
    await world.names.clean_up(BOX.id)
    await world.names.clean_up(BOX.id)
    assert await world.ask("box.vm") == ""


async def test_machines_that_run_have_their_names_after_a_restart(world: World) -> None:
    stopped = replace(BOX, id="b", name="stopped", state=VMState.STOPPED, runtime=replace(BOX.runtime, address="172.30.86.3"))
    elsewhere = replace(RECORD, id="c", name="elsewhere", state=VMState.RUNNING)
    await world.names.resume([BOX, stopped, elsewhere])
    assert [await world.ask(name) for name in ("box.vm", "stopped.vm", "elsewhere.vm")] == ["172.30.86.2", "", ""]


async def test_without_a_bridge_a_machine_has_no_name(world: World) -> None:
    await world.names.resume([])
    await world.names.prepare_host(RECORD)
    await world.names.post_start(RECORD, AGENT)
    await world.names.clean_up(RECORD.id)
    assert await world.ask("box.vm") == ""


async def test_guests_ask_others_as_their_nat_is(world: World) -> None:
    """Before a guest is ready it has begun to ask."""
    answer = world.names.guests.responder.answer
    outside = question("example.com")
    await world.names.prepare_host(with_nat(BOX, nat=True))
    assert not isinstance(answer(outside, "172.30.86.2"), bytes)
    assert isinstance(answer(outside, "172.30.86.3"), bytes)
    await world.names.apply_change(with_nat(BOX, nat=True), with_nat(BOX, nat=False))
    assert isinstance(answer(outside, "172.30.86.2"), bytes)
    await world.names.apply_change(with_nat(BOX, nat=False), with_nat(BOX, nat=True))
    assert not isinstance(answer(outside, "172.30.86.2"), bytes)
    await world.names.clean_up(BOX.id)
    assert isinstance(answer(outside, "172.30.86.2"), bytes)
    await world.names.apply_change(with_nat(BOX, nat=False), with_nat(BOX, nat=True))  # it does not run
    assert isinstance(answer(outside, "172.30.86.2"), bytes)


async def test_the_guests_face_answers_guests_alone(world: World) -> None:
    await world.names.prepare_host(BOX)
    await world.names.post_start(BOX, AGENT)
    answer = world.names.guests.responder.answer
    assert data(answer(question("box.vm"), "172.30.86.77")) == ["172.30.86.2"]
    assert answer(question("box.vm"), "192.0.2.7") is None


async def test_a_port_that_is_taken_is_had_later(world: World, caplog: pytest.LogCaptureFixture) -> None:
    taken = bind_pair(IPv4Address("127.0.0.1"), world.port)
    world.ops.guests_taken = True
    await world.names.resume([BOX])
    await asyncio.sleep(0.1)
    first, second, _ = await world.names.check_host()
    assert (first.status, "is held by" in first.detail, "dns_port" in first.remedy) == ("warn", True, True)
    assert (second.status, second.detail, second.remedy) == ("warn", "udp port 53 of 172.30.86.1 is held by dnsmasq (pid 1)", "stop it")
    assert world.ops.routed == []  # it would ask somebody else
    warnings = [record for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 2  # one for each, however often it is tried
    for sock in taken:
        sock.close()
    world.ops.guests_taken = False
    await until(lambda: world.names.host.is_open and world.names.guests.is_open)
    assert await world.ask("box.vm") == "172.30.86.2"


async def test_the_resolver_is_told_again_and_again(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """It may have been restarted, and the bridge made again."""
    world.ops.broken = True
    await world.names.resume([BOX])
    await until(lambda: len(world.ops.routed) > 3)
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
        "the host's resolver could not be told to ask here for names of machines"
    ]  # fmt: skip
    world.ops.broken = False
    before = len(world.ops.routed)
    await until(lambda: len(world.ops.routed) > before + 1)
    await world.names.close()
    assert world.ops.cleared == 1


async def test_the_resolver_is_left_alone_while_no_machine_runs(world: World) -> None:
    await world.names.resume([])
    await asyncio.sleep(0.1)
    assert world.ops.routed == []
    await world.names.close()
    assert world.ops.cleared == 0


async def test_a_helper_that_is_gone_at_the_end_is_no_trouble(world: World) -> None:
    await world.names.resume([BOX])
    await until(lambda: bool(world.ops.routed))
    world.ops.broken = True
    await world.names.close()
    assert world.ops.cleared == 1


async def test_doctor_sees_who_answers(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(name_checks, "is_running", lambda: False)
    await world.names.resume([])
    await until(lambda: world.names.guests.is_open)
    first, second, third = await world.names.check_host()
    assert (first.status, first.detail) == ("pass", f"127.0.0.1:{world.port} answers for 0 machines")
    assert second.status == "pass"
    assert (third.name, third.status) == ("names on this host", "warn")
    assert "systemd-resolved" in third.remedy


async def test_doctor_notices_a_lookup_that_arrives(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """getent is a stand-in: this host's resolver asks us for nothing."""

    async def lookup(argv: list[str], **_: object) -> None:
        await dig("@127.0.0.1", "-p", str(world.port), argv[-1])

    monkeypatch.setattr(name_checks, "run", lookup)
    await world.names.resume([])
    *_, third = await world.names.check_host()
    assert (third.status, third.detail) == ("pass", "lookups of NAME.vm reach banger")


async def test_the_probe_knows_who_is_not_us() -> None:
    datagrams, stream = bind_at_any_port()
    stream.close()
    datagrams.setblocking(True)
    datagrams.settimeout(5)
    port = datagrams.getsockname()[1]

    def lie() -> None:
        asked, who = datagrams.recvfrom(512)
        datagrams.sendto(asked[:2] + b"\x81\x83" + asked[4:], who)  # NXDOMAIN without authority

    lying = asyncio.create_task(asyncio.to_thread(lie))
    assert await asyncio.to_thread(name_checks.ask_probe, "127.0.0.1", port) == "an answer that is not ours"
    await lying
    assert await asyncio.to_thread(name_checks.ask_probe, "127.0.0.1", port) == "no answer"
    datagrams.close()
