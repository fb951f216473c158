"""The bridge: the guests' router, with the first address of their subnet. Its alias says that it is ours, and whether the host forwarded before."""

from __future__ import annotations

import errno
from ipaddress import IPv4Interface
from typing import Final

from ...host.links import MCAST_SNOOPING, STP_STATE, Link, Links
from ...model.errors import BadRequest, MissingTool
from ...model.network import NetworkPlan
from . import sysctl

OURS: Final = "banger"
OURS_FORWARDING: Final = "banger: IP forwarding was off before"
_ALIASES: Final = (OURS, OURS_FORWARDING)


def find_bridge(links: Links, plan: NetworkPlan) -> Link | None:
    """The bridge, when it is there. Raises BadRequest when the name is taken by something that is not ours."""
    found = links.find(plan.bridge)
    if found is not None and not is_ours(found, plan):
        raise BadRequest(
            f"{plan.bridge} exists and is not ours (a {found.kind or 'network card'} that we did not make)",
            hint=f"choose another name: [network] bridge in config.toml, or in install.toml of an installed system; or: sudo ip link delete {plan.bridge}",
        )
    return found


def is_ours(link: Link, plan: NetworkPlan) -> bool:
    """We made it. A bridge gets its alias a moment after it is made with its MAC, and we may have been killed between the two."""
    return link.kind == "bridge" and (link.alias in _ALIASES or (link.alias == "" and link.mac == _mac(plan)))


def ensure_bridge(links: Links, plan: NetworkPlan, found: Link | None, alias: str) -> tuple[Link, list[str]]:
    """The bridge as it should be, and what was put right, in words."""
    if found is None:
        _make(links, plan, alias)
    made = find_bridge(links, plan)
    assert made is not None
    repaired = ["the bridge"] if found is None else []
    for what, mended in (
        ("the settings of the bridge", _settle(links, plan, made, alias)),
        ("the bridge's address", _give_address(links, plan, made)),
        ("the bridge's state", _switch_on(links, made)),
    ):
        repaired += [what] if mended and found is not None else []
    return made, repaired


def is_usable(links: Links, plan: NetworkPlan) -> Link | None:
    """The bridge, when it is there, ours and up."""
    found = find_bridge(links, plan)
    return found if found is not None and found.up else None


def _make(links: Links, plan: NetworkPlan, alias: str) -> None:
    try:
        links.make_bridge(plan.bridge, _mac(plan), alias)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            raise MissingTool("the host's kernel cannot make bridges", hint="sudo modprobe bridge") from error
        raise


def _mac(plan: NetworkPlan) -> str:
    """As ``NetworkPlan.mac`` for slot 1, which is the gateway's."""
    return plan.mac(1)


def _settle(links: Links, plan: NetworkPlan, bridge: Link, alias: str) -> bool:
    if bridge.alias != alias:
        links.set_alias(bridge.index, alias)
    wrong = bridge.mac != _mac(plan) or any(bridge.options.get(STP_STATE, b"")) or any(bridge.options.get(MCAST_SNOOPING, b""))
    if wrong:
        links.set_bridge(bridge.index, _mac(plan))
    open_ipv6 = sysctl.has_ipv6(bridge.name)
    sysctl.switch_off_ipv6(bridge.name)
    return wrong or open_ipv6


def _give_address(links: Links, plan: NetworkPlan, bridge: Link) -> bool:
    wanted = IPv4Interface((plan.gateway, plan.subnet.prefixlen))
    present = {address.interface for address in links.addresses() if address.index == bridge.index}
    for other in present - {wanted}:
        links.remove_address(bridge.index, other)
    if wanted not in present:
        links.add_address(bridge.index, wanted)
    return present != {wanted}


def _switch_on(links: Links, bridge: Link) -> bool:
    if not bridge.up:
        links.set_up(bridge.index)
    return not bridge.up
