"""Names of machines on a bridge: ``NAME.vm`` for this host and the guests, and other names for guests whose NAT is on."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final

from ..guest.agent import Agent
from ..helper.protocol import NameOps
from ..host.bound_ports import bind_pair
from ..model.errors import BangerError
from ..model.network import NetworkPlan
from ..model.records import VMRecord, VMState
from ..net.dns.face import Face
from ..net.dns.forwarder import Forwarder
from ..net.dns.resolv_conf import HostResolvers, Upstream
from ..net.dns.responder import Responder
from ..net.dns.streams import MAX_CONNECTIONS
from ..net.dns.zone import Zone
from .capabilities import Finding
from .name_checks import check_names

log = logging.getLogger(__name__)

LOOPBACK: Final = IPv4Address("127.0.0.1")
WATCH_SECONDS: Final = 60.0
"""How often a port that is taken is tried again, and the host's resolver is looked at while machines run: it may have been restarted, the bridge made again."""
_GUEST_CONNECTIONS: Final = 8
_CLEAR_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class _Guest:
    name: str
    address: IPv4Address
    nat: bool


class VmNames:
    """Nothing that goes wrong with names keeps a machine from starting or running."""

    name = "names"

    def __init__(self, ops: NameOps, plan: NetworkPlan, port: int, *, upstreams: Callable[[], Sequence[Upstream]] | None = None) -> None:
        """``port`` of 127.0.0.1 is the host's face. ``upstreams``: resolvers that guests' questions are passed on to, the host's own unless given."""
        self._ops = ops
        self._plan = plan
        self._port = port
        self._zone = Zone(plan.subnet)
        self._guests: dict[str, _Guest] = {}
        self._going_out: dict[str, str] = {}
        forwarder = Forwarder(upstreams or HostResolvers(without={str(plan.gateway)}))
        guests = Responder(self._zone, forwards=forwarder, may_forward=self._going_out.__contains__, admits=self._is_guest)
        self.host = Face(f"127.0.0.1:{port}", self._bind_host, Responder(self._zone), streams_per_source=MAX_CONNECTIONS)
        self.guests = Face(f"{plan.gateway}:53", ops.bind_dns, guests, streams_per_source=_GUEST_CONNECTIONS)
        self._wake = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None
        self._recipe: str | None = None
        """What the administrator has to do for the host's resolver; "" = nothing, None = not known."""
        self._routing_failed = ""

    # -- hooks -------------------------------------------------------------------------------------------------------------------------------------

    async def prepare_host(self, record: VMRecord) -> None:
        """A guest asks for names before it is ready."""
        if record.runtime.address:
            self._note(record)

    async def post_start(self, record: VMRecord, agent: Agent) -> None:
        if record.runtime.address:
            self._publish(record)
            self.check_soon()

    async def clean_up(self, vm_id: str) -> None:
        guest = self._guests.pop(vm_id, None)
        if guest is not None:
            self._zone.remove(guest.name)
            self._going_out.pop(str(guest.address), None)

    async def apply_change(self, before: VMRecord, after: VMRecord) -> None:
        if after.id in self._guests:
            self._note(after)

    async def resume(self, records: Sequence[VMRecord]) -> None:
        """Begin to answer, for the machines that run. What takes the helper or a program happens behind the caller's back."""
        for record in records:
            if record.state is VMState.RUNNING and record.runtime.address:
                self._publish(record)
        await self.host.open()
        self._watching = asyncio.create_task(self._watch(), name="watch names")

    async def close(self) -> None:
        """Answer no more, and have the host's resolver not wait for us."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        await self.host.close()
        await self.guests.close()
        if self._recipe == "":
            try:
                async with asyncio.timeout(_CLEAR_SECONDS):
                    await self._ops.clear_resolver()
            except (BangerError, TimeoutError) as error:
                log.warning("the host's resolver still asks here for names of machines", extra={"error": str(error)})

    async def check_host(self) -> Sequence[Finding]:
        return await check_names(self.host, self.guests, self._plan, self._port, len(self._guests), self._routing_failed)

    # ----------------------------------------------------------------------------------------------------------------------------------------------

    def check_soon(self) -> None:
        """Look after ports and resolver now instead of within the minute: the bridge has been made again, or has its first machine."""
        self._wake.set()

    def _note(self, record: VMRecord) -> None:
        guest = _Guest(record.name, IPv4Address(record.runtime.address), record.spec.nat)
        self._guests[record.id] = guest
        if guest.nat:
            self._going_out[str(guest.address)] = record.id
        else:
            self._going_out.pop(str(guest.address), None)

    def _publish(self, record: VMRecord) -> None:
        self._note(record)
        self._zone.add(record.name, IPv4Address(record.runtime.address))

    def _is_guest(self, source: str) -> bool:
        return IPv4Address(source) in self._plan.subnet

    async def _bind_host(self) -> tuple[socket.socket, socket.socket]:
        remedy = "stop it, or set dns_port below [network] in config.toml to a free port and restart the daemon"
        return await asyncio.to_thread(bind_pair, LOOPBACK, self._port, remedy=remedy)

    async def _watch(self) -> None:
        while True:
            try:
                await self._look_after()
            except Exception:
                log.exception("names could not be looked after")
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(WATCH_SECONDS):
                    await self._wake.wait()

    async def _look_after(self) -> None:
        await self.guests.open()
        if await self.host.open() and self._guests:
            await self._route()

    async def _route(self) -> None:
        """Each outcome is logged when it is another than before."""
        try:
            recipe = await self._ops.route_resolver(self._port)
        except BangerError as error:
            if error.message != self._routing_failed:
                log.warning("the host's resolver could not be told to ask here for names of machines", extra={"error": error.message, "hint": error.hint})
            self._routing_failed = error.message
            return
        if recipe != self._recipe:
            log.info("the host's resolver asks here for names of machines" if not recipe else "this host cannot look up names of machines by itself")
        self._recipe, self._routing_failed = recipe, ""
