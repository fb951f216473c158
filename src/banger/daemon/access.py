"""Ways into a machine beside exec: a connection to a socket in it, forwards that a client holds, what ssh needs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..access.ssh_config import include_line
from ..api import types as t
from ..guest.frames import Operation as GuestOperation
from ..guest.messages import connect_request
from ..model.errors import BadRequest, ChannelLost
from ..model.forwards import check_forwards
from ..model.opid import current_op_id
from ..model.records import VMRecord
from .forward import Forward

if TYPE_CHECKING:
    from ..vm.observe import Port
    from ..vm.published import HeldForwards, PublishedPorts
    from ..vm.ssh_access import SshAccess
    from .call import Call
    from .context import Context


@dataclass(frozen=True, slots=True)
class Access:
    """The capabilities that callers ask, too."""

    ssh: SshAccess
    ports: PublishedPorts


async def vm_connect(context: Context, call: Call) -> t.StreamTicket:
    body: t.ConnectVM = call.body
    if bool(body.port) == bool(body.path):
        raise BadRequest("either a port or a path is needed", hint="a port of the machine, or the absolute path of a unix socket in it")
    if body.path and not body.path.startswith("/"):
        raise BadRequest(f"{body.path!r} is no absolute path", hint="the path of a unix socket begins with /")
    vm_id = context.machines.find(call.path["ref"]).id
    context.machines.agent(vm_id)
    context.machines.touch(vm_id)
    request = connect_request(body.path, body.port)
    op_id = current_op_id.get()

    def open_stream(transport: asyncio.Transport) -> Forward:
        agent = context.machines.agent(vm_id)
        return Forward(transport, agent, GuestOperation.CONNECT, request, op_id=op_id, vm_id=vm_id, on_end=context.machines.open_stream(vm_id))

    return t.StreamTicket(token=context.tokens.issue(open_stream))


async def vm_forward(context: Context, call: Call) -> t.Forwarding:
    body: t.ForwardVM = call.body
    if not body.forwards:
        raise BadRequest("nothing to forward", hint="name at least one [BIND:]HOSTPORT:GUESTPORT")
    check_forwards(body.forwards, any_port=True)
    held = await context.access.ports.forward(context.machines.find(call.path["ref"]), body.forwards)
    token = context.tokens.issue(lambda transport: ForwardHold(transport, held), held.close)
    return t.Forwarding(token=token, forwards=held.forwards)


async def ssh_show(context: Context, call: Call) -> t.SshFiles:
    await context.access.ssh.ensure_configuration()
    layout = context.layout
    return t.SshFiles(
        config=str(layout.ssh_config),
        include=include_line(layout.ssh_config),
        identity=str(layout.ssh_identity),
        known_hosts=str(layout.ssh_known_hosts),
    )


def published_reply(context: Context, record: VMRecord) -> tuple[t.PublishedPort, ...]:
    """What the machine publishes."""
    found = context.access.ports.published(record)
    return tuple(t.PublishedPort(endpoint=one.forward.endpoint, guest_port=one.forward.guest_port, open=one.open, error=one.error) for one in found)


def with_endpoints(ports: Sequence[Port], published: Sequence[t.PublishedPort]) -> tuple[Port, ...]:
    """The ports of a machine with how each is reached from this host; published ones where nobody listens come last."""
    from ..vm.observe import Port

    endpoints: dict[int, list[str]] = {}
    for one in published:
        endpoints.setdefault(one.guest_port, []).append(one.endpoint if one.open else f"{one.endpoint} (not open)")
    shown = [replace(port, endpoint=", ".join(endpoints.get(port.port, ()))) if port.protocol == "tcp" else port for port in ports]
    used = {port.port for port in ports if port.protocol == "tcp"}
    idle = [Port(protocol="tcp", addresses=(), port=port, process="", command="", endpoint=", ".join(at)) for port, at in endpoints.items() if port not in used]
    return (*shown, *idle)


class ForwardHold:
    """The session of a connection on attach.sock that holds forwards by being open."""

    def __init__(self, transport: asyncio.Transport, held: HeldForwards) -> None:
        """Raises ChannelLost when the machine's run has ended meanwhile."""
        if held.ended:
            raise ChannelLost("the machine was stopped before the forwards were held", hint="start it and try again")
        self._held = held
        held.on_end = transport.close

    def received(self, untrusted: bytes) -> None:
        """Holding is all there is to it."""

    def ended(self) -> None:
        """The holder has gone."""
        self._held.close()

    def stop(self, why: str) -> None:
        """Nothing is said on such a connection."""
