"""The verbs of names, carried out here."""

from __future__ import annotations

import asyncio
import socket
from typing import Final

from ...host.bound_ports import bind_pair
from ...model.errors import BadRequest
from ...model.network import NetworkPlan
from . import resolved
from .recipes import recipe

DNS_PORT: Final = 53


class HostNames:
    """NameOps (``helper.protocol``) for one bridge. Keeps nothing: what is so is asked of the host each time."""

    def __init__(self, plan: NetworkPlan) -> None:
        self._plan = plan

    async def bind_dns(self) -> tuple[socket.socket, socket.socket]:
        """The bridge need not exist, and may go and come again under the sockets. Raises AlreadyExists when somebody else has the port, BadRequest."""
        remedy = f"have it leave {self._plan.gateway} alone (dnsmasq: except-interface={self._plan.bridge} and bind-dynamic), then restart it"
        return await asyncio.to_thread(bind_pair, self._plan.gateway, DNS_PORT, remedy=remedy)  # looking for a port's holder takes a while

    async def route_resolver(self, port: int) -> str:
        """One look, and changes only if something is not as it should be. Raises CommandFailed, as without a bridge."""
        if not 1024 <= port <= 65535:
            raise BadRequest(f"{port} is no port for names", hint="1024 to 65535")
        if not resolved.is_running():
            return recipe(self._plan.bridge, port)
        if not await resolved.is_routed(self._plan, port):
            await resolved.route(self._plan, port)
        return ""

    async def clear_resolver(self) -> None:
        """Success when there is no systemd-resolved, or no bridge: what it was told goes with the link."""
        if resolved.is_running() and resolved.has_link(self._plan.bridge):
            await resolved.revert(self._plan.bridge)
