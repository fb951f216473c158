"""Which network the machines of this daemon have: the host's bridge where somebody with privileges does the work, else one without privileges."""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from ..helper.protocol import NameOps, NetworkOps
from ..host.installation import read_installation
from ..host.paths import Layout
from ..model.config import NetworkSettings
from ..model.errors import BadRequest
from ..model.network import NetworkPlan, network_plan
from ..net.protocol import Network
from ..net.user import UserNetwork
from ..store import Database, VMTable
from ..vm.capabilities import Capability
from ..vm.nat import Nat
from .names import start_names


@dataclass(frozen=True, slots=True, kw_only=True)
class HostNetworking:
    """The network's driver, and the capabilities that belong to it."""

    driver: Network
    capabilities: tuple[Capability, ...] = ()


@dataclass(frozen=True, slots=True)
class _Privileged:
    """Who has the privileges for the bridge, and how its network is left behind."""

    network: NetworkOps
    names: NameOps
    plan: NetworkPlan
    leave: Callable[[], Awaitable[None]] | None


def host_networking(settings: NetworkSettings, layout: Layout, database: Database) -> HostNetworking:
    """What ``[network] mode`` means for this instance. Raises BadRequest when it wants a bridge and nobody can make one, or another daemon has it."""
    privileged = _privileged(settings, layout)
    return HostNetworking(driver=UserNetwork()) if privileged is None else _bridge(privileged, settings, database)


def _privileged(settings: NetworkSettings, layout: Layout) -> _Privileged | None:
    if settings.mode == "user":
        return None
    if layout == Layout.system() and (installation := read_installation()) is not None:
        from ..helper.client import privileged_ops

        ops = privileged_ops()
        return _Privileged(ops.network, ops.names, installation.network, None)
    if settings.mode == "auto":
        return None
    if os.geteuid() != 0:
        raise BadRequest('[network] mode = "bridge" needs root or an installed system', hint="sudo banger system install --owner $USER, or remove the line")
    from ..helper.names.host import HostNames
    from ..helper.network.host_network import HostNetwork

    plan = network_plan(settings.bridge, settings.subnet)
    network = HostNetwork(plan, reachable=settings.reachable, tap_owner=os.geteuid())
    return _Privileged(network, HostNames(plan), plan, network.remove_network)


def _bridge(privileged: _Privileged, settings: NetworkSettings, database: Database) -> HostNetworking:
    from ..net.bridge import BridgeNetwork

    rows, claim = VMTable(database), _claim(privileged.plan.bridge)

    def note(address: str, kind: str, message: str) -> None:
        for record in rows.list():
            if record.runtime.address == address:
                database.events.append(kind, record.id, operation="network", message=message)

    async def let_go() -> None:
        if privileged.leave is not None and not rows.attached():
            await privileged.leave()
        claim.close()

    driver = BridgeNetwork(privileged.network, privileged.plan, rows, pool_size=settings.tap_pool_size, note=note, on_close=let_go)
    # Nat makes the network when the daemon begins, and leaves it last.
    return HostNetworking(driver=driver, capabilities=(Nat(driver), start_names(privileged.names, privileged.plan, settings)))


def _claim(bridge: str) -> socket.socket:
    """Two daemons would take each other's taps for left over. An abstract name is free again when its process ends, and is one per network namespace."""
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        claim.bind(f"\0banger-bridge-{bridge}")
    except OSError as error:
        claim.close()
        raise BadRequest(
            f"another daemon uses the bridge {bridge}", hint="give this instance a [network] bridge and subnet of its own in config.toml"
        ) from error
    return claim
