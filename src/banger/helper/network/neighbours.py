"""The networks that the host is in: none may overlap with the machines' subnet, and none is for guests to reach."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from ipaddress import IPv4Network, collapse_addresses
from typing import Final

from ...host.links import Address, Links, Route
from ...model.errors import BadRequest
from ...model.network import NetworkPlan

_WIDEST: Final = 8
"""A route with a shorter prefix is a default route in disguise (VPNs split it into halves)."""
_HINT: Final = "choose another: [network] subnet in config.toml, or in install.toml of an installed system"


def refuse_conflict(links: Links, plan: NetworkPlan, bridge: int) -> None:
    """Raises BadRequest when an address or a route of another link (than the one with this index) lies in the subnet."""
    if found := conflict(plan, bridge, links.addresses(), links.routes()):
        raise BadRequest(found, hint=_HINT)


def conflict(plan: NetworkPlan, bridge: int, addresses: Iterable[Address], routes: Iterable[Route]) -> str:
    """What is in the way of the subnet, in words; "" for nothing."""
    for address in addresses:
        if address.index != bridge and address.interface.ip in plan.subnet:
            return f"{address.interface.ip}, which is in the machines' subnet {plan.subnet}, is already an address of {link_name(address.index)}"
    for route in routes:
        of_others = not route.index or route.index != bridge
        if of_others and route.network.prefixlen >= _WIDEST and route.network.overlaps(plan.subnet):
            return f"the machines' subnet {plan.subnet} overlaps {_in_words(route)}"
    return ""


def _in_words(route: Route) -> str:
    if route.dead_end:
        return f"the {route.dead_end} route to {route.network}"
    return f"the route to {route.network} by {link_name(route.index) if route.index else 'several links'}"


def neighbours(plan: NetworkPlan, bridge: int, routes: Iterable[Route]) -> frozenset[IPv4Network]:
    """Networks whose addresses the host reaches without a router, but the machines' own."""
    found = (route.network for route in routes if route.on_link and route.index != bridge and route.network.prefixlen >= _WIDEST)
    return frozenset(collapse_addresses(network for network in found if network != plan.subnet))


def link_name(index: int) -> str:
    """Name of the link with this index."""
    try:
        return socket.if_indextoname(index)
    except OSError:
        return f"interface {index}"
