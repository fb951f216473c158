"""What is in the subnet's way, and what is closed to guests."""

from __future__ import annotations

from ipaddress import IPv4Interface, IPv4Network

import pytest

from banger.helper.network.neighbours import conflict, neighbours
from banger.host.links import Address, Route
from banger.model.network import network_plan

PLAN = network_plan("banger0", "172.30.86.0/24")
OWN, OTHER = 7, 99_999


def route(network: str, index: int = OTHER, *, on_link: bool = False) -> Route:
    return Route(IPv4Network(network), index, on_link)


@pytest.mark.parametrize("network", ["172.30.86.0/24", "172.30.86.128/25", "172.16.0.0/12", "172.30.86.5/32"])
def test_routes_that_overlap(network: str) -> None:
    assert f"overlaps the route to {network} by interface {OTHER}" in conflict(PLAN, OWN, [], [route(network)])
    assert conflict(PLAN, OWN, [], [route(network, OWN)]) == ""


@pytest.mark.parametrize("network", ["0.0.0.0/0", "128.0.0.0/1", "172.30.87.0/24", "10.0.0.0/8"])
def test_routes_that_do_not(network: str) -> None:
    assert conflict(PLAN, OWN, [], [route(network)]) == ""


@pytest.mark.parametrize("bridge", [0, OWN], ids=["not made yet", "made"])
def test_routes_without_a_link_are_never_ours(bridge: int) -> None:
    nowhere = Route(IPv4Network("172.30.86.0/24"), 0, on_link=False, dead_end="unreachable")
    assert conflict(PLAN, bridge, [], [nowhere]) == "the machines' subnet 172.30.86.0/24 overlaps the unreachable route to 172.30.86.0/24"
    assert conflict(PLAN, bridge, [], [route("172.30.0.0/16", 0)]).endswith("overlaps the route to 172.30.0.0/16 by several links")


def test_addresses() -> None:
    assert "172.30.86.1, which" in conflict(PLAN, OWN, [Address(IPv4Interface("172.30.86.1/32"), OTHER)], [])
    assert conflict(PLAN, OWN, [Address(IPv4Interface("172.30.86.1/24"), OWN), Address(IPv4Interface("10.0.0.1/8"), OTHER)], []) == ""


def test_neighbours_are_what_is_reached_without_a_router() -> None:
    routes = [
        route("10.0.0.0/24", on_link=True),
        route("10.0.1.0/24", on_link=True),
        route("192.168.7.0/24"),
        route("0.0.0.0/0", on_link=True),
        route("172.30.86.0/24", OWN, on_link=True),
    ]
    assert neighbours(PLAN, OWN, routes) == {IPv4Network("10.0.0.0/23")}
