"""Looking at machines: what they use, whether they answer, what listens in them. Nothing is asked of a guest unless somebody wants to know."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, replace
from typing import TypeVar

from ..guest.agent import Agent, GuestStats, Listener
from ..host.usage import cpu_seconds, memory_use
from ..model.errors import BangerError, GuestTimeout
from ..model.machine import GroupUsage
from ..model.network import Traffic
from ..model.records import ProcessIdentity, VMRecord
from ..net.protocol import SwitchesNat
from .bounds import bounds_usage
from .context import Live, Services
from .probe import MAX_PROBES, http_status, may_ask
from .start import disk_usage

log = logging.getLogger(__name__)

Result = TypeVar("Result")

_GUEST_STATES = ("waiting", "configuring", "ready", "booted")
_ANSWER_SECONDS = 3.0
_CPU_WINDOW = 0.1
"""Shortest time over which a CPU percentage means something, in seconds."""
_CPU_MEMORY = 60.0
"""An earlier look is the beginning of the window when it is not older than this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessUsage:
    """What the VMM process uses; sizes in bytes."""

    pid: int
    cpu_percent: float
    """100 = one CPU, over the last ``cpu_window`` seconds."""
    cpu_window: float
    cpu_seconds: float
    """Since the process began."""
    rss: int
    pss: int | None
    """None where this host does not let us see it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a machine uses. ``process`` and ``guest`` are None when it does not run; sizes in bytes."""

    record: VMRecord
    collected_at: float
    """Seconds since 1970."""
    overlay_allocated: int
    work_allocated: int
    process: ProcessUsage | None = None
    guest: GuestStats | None = None
    bounds: GroupUsage | None = None
    """What its cgroup says; None without one."""
    guest_error: str = ""
    """Why the guest of a running machine did not say what it uses."""
    traffic: Traffic | None = None
    """What has passed between it and the outside; None when it is not on a bridge or not let out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """Whether a machine runs and its agent answers."""

    name: str
    alive: bool
    """Its VMM runs."""
    healthy: bool = False
    """Its agent has answered."""
    guest_state: str = ""
    """``waiting``, ``configuring``, ``ready`` or ``booted``."""
    round_trip: float | None = None
    """Seconds to the agent and back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """Something in a guest that waits for connections or datagrams; the same one on IPv4 and IPv6 is one entry."""

    protocol: str
    """``tcp`` or ``udp``."""
    addresses: tuple[str, ...]
    port: int
    process: str
    command: str
    endpoint: str = ""
    """How it is reached from this host; "" while it is not published."""
    http_status: int | None = None
    """Status with which it answers an HTTP request for ``/``; None when it does not, or was not asked."""


@dataclass(frozen=True, slots=True)
class _Look:
    process: ProcessIdentity
    at: float
    cpu: float


class Observer:
    """Takes the looks; remembers of each running machine only the CPU clock of the last one."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._looks: dict[str, _Look] = {}

    async def usage(self, record: VMRecord) -> Usage:
        """What the machine uses; waits for the guest no longer than 3 s."""
        overlay, work = await asyncio.to_thread(disk_usage, self._services.layout.vm(record.id))
        usage = Usage(record=record, collected_at=time.time(), overlay_allocated=overlay, work_allocated=work)
        self._looks = {vm_id: look for vm_id, look in self._looks.items() if vm_id in self._services.live}
        live = self._services.live.get(record.id)
        if live is None or not self._services.alive(record):
            return usage
        process, (guest, error), bounds, traffic = await asyncio.gather(
            self._process(record.id, live.machine.process), _guest(live), bounds_usage(self._services, record.id), self._traffic(record)
        )
        return replace(usage, process=process, guest=guest, guest_error=error, bounds=bounds, traffic=traffic)

    async def _traffic(self, record: VMRecord) -> Traffic | None:
        network = self._services.network
        if not record.runtime.tap or not record.spec.nat or not isinstance(network, SwitchesNat):
            return None
        try:
            return (await network.traffic()).get(record.runtime.address)
        except BangerError as error:
            log.warning("the network's counters could not be read", extra={"vm_id": record.id, "error": error.message})
            return None

    async def _process(self, vm_id: str, process: ProcessIdentity) -> ProcessUsage | None:
        before = self._looks.get(vm_id)
        if before is None or before.process != process or time.monotonic() - before.at > _CPU_MEMORY:
            before = _look(process)
        if before is None:
            return None
        await asyncio.sleep(max(0.0, before.at + _CPU_WINDOW - time.monotonic()))
        now, memory = _look(process), await asyncio.to_thread(memory_use, process)
        if now is None or memory is None:
            return None
        self._looks[vm_id] = now
        window = now.at - before.at
        percent = round(max(0.0, now.cpu - before.cpu) / window * 100, 1)
        return ProcessUsage(pid=process.pid, cpu_percent=percent, cpu_window=round(window, 3), cpu_seconds=round(now.cpu, 3), rss=memory.rss, pss=memory.pss)


def _look(process: ProcessIdentity) -> _Look | None:
    seconds = cpu_seconds(process)
    return None if seconds is None else _Look(process, time.monotonic(), seconds)


async def _guest(live: Live) -> tuple[GuestStats | None, str]:
    if live.agent is None or live.agent.closed:
        return None, "the agent does not answer"
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            return await live.agent.stats(), ""
    except TimeoutError:
        return None, f"the agent did not answer within {_ANSWER_SECONDS:g} s"
    except BangerError as error:
        return None, error.message


async def health(agent: Agent, name: str) -> Health:
    """Health of a machine that runs. Raises GuestTimeout after 3 s, ChannelLost."""
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            round_trip = await agent.ping()
    except TimeoutError:
        raise _silent(name) from None
    return Health(name=name, alive=True, healthy=True, guest_state=_GUEST_STATES[agent.hello.state], round_trip=round_trip)


async def ports(agent: Agent, name: str, *, probe: bool) -> tuple[Port, ...]:
    """What waits for connections or datagrams in the guest, by port; ``probe`` asks those on TCP for HTTP. Raises GuestTimeout after 3 s, GuestError."""
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            found = merge(await agent.listeners())
    except TimeoutError:
        raise _silent(name) from None
    return await _probed(agent, found) if probe else found


async def _probed(agent: Agent, found: tuple[Port, ...]) -> tuple[Port, ...]:
    asked = [port for port in found if port.protocol == "tcp" and may_ask(port.port, port.process)][:MAX_PROBES]
    statuses = await asyncio.gather(*(http_status(agent, port.addresses, port.port) for port in asked))
    known = dict(zip(asked, statuses, strict=True))
    return tuple(replace(port, http_status=known.get(port)) for port in found)


def _silent(name: str) -> GuestTimeout:
    return GuestTimeout(f"the agent in {name} did not answer within {_ANSWER_SECONDS:g} s", hint=f"banger vm logs {name}; banger vm restart {name}", vm=name)


def merge(listeners: tuple[Listener, ...]) -> tuple[Port, ...]:
    """Listeners with those of one process on one port joined, IPv4 or IPv6, in the order of their ports."""
    merged: dict[tuple[int, str, str], Port] = {}
    for one in listeners:
        protocol = one.protocol.removesuffix("6")
        key = (one.port, protocol, one.process)
        known = merged.get(key) or Port(protocol=protocol, addresses=(), port=one.port, process=one.process, command=one.command)
        merged[key] = replace(known, addresses=tuple(dict.fromkeys((*known.addresses, one.address))))
    return tuple(merged[key] for key in sorted(merged))
