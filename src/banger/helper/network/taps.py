"""Taps: one per slot, made to last, each a port of the bridge that reaches the host alone and no other port."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterable, Mapping
from typing import Final

from ...host.links import ISOLATED, LEARNING, MCAST_FLOOD, UNICAST_FLOOD, Link, Links
from ...host.tap import make_tap
from ...model.errors import BadRequest, CommandFailed
from ...model.network import NetworkPlan
from . import sysctl

_PORT: Final[Mapping[int, bytes]] = {ISOLATED: b"\1", LEARNING: b"\0", UNICAST_FLOOD: b"\0", MCAST_FLOOD: b"\0"}
"""The forwarding table has the slot's MAC for good, so a guest can neither fill it nor see frames for another."""


def taps_of(links: Iterable[Link], plan: NetworkPlan) -> dict[int, Link]:
    """Taps of the plan's slots, among these links."""
    named = ((plan.slot_of_tap(link.name), link) for link in links)
    return {slot: link for slot, link in named if slot is not None and link.kind == "tun"}


def is_ready(tap: Link, bridge: Link, owner: int) -> bool:
    """Nothing about it needs changing."""
    return tap.owner == owner and tap.master == bridge.index and tap.up and all(tap.port.get(kind) == value for kind, value in _PORT.items())


def ready_tap(links: Links, plan: NetworkPlan, bridge: Link, slot: int, owner: int) -> bool:
    """Have the slot's tap as it should be; returns whether anything was changed. Raises BadRequest when its name is taken, CommandFailed, OSError."""
    tap = links.find(plan.tap(slot))
    if tap is not None and tap.kind != "tun":
        raise BadRequest(f"{tap.name} exists and is no tap of ours", hint=f"sudo ip link delete {tap.name}")
    if tap is not None and is_ready(tap, bridge, owner):
        return False
    if tap is None or tap.owner != owner:
        make_tap(plan.tap(slot), owner)
        tap = links.find(plan.tap(slot))
    if tap is None:
        raise CommandFailed(f"the tap {plan.tap(slot)} went as soon as it was made")
    _connect(links, plan, bridge, slot, tap)
    return True


def _connect(links: Links, plan: NetworkPlan, bridge: Link, slot: int, tap: Link) -> None:
    """A port is isolated before it is up."""
    sysctl.switch_off_ipv6(tap.name)
    links.set_port(tap.index, bridge.index, _PORT)
    with contextlib.suppress(FileExistsError):
        links.pin_forwarding(tap.index, plan.mac(slot))
    links.set_up(tap.index)


def delete_links(links: Links, found: Iterable[Link]) -> None:
    """Delete them all at once. Success when they have gone meanwhile."""
    links.delete([link.index for link in found], group=secrets.randbits(30) | 1 << 30)
