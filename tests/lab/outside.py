"""The outer side of the laboratory: a server behind a router, in a network namespace, and the router itself, which is the laboratory's neighbour."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.lab.laboratory import Laboratory

UPLINK = "198.51.100.1"
"""The laboratory's own address on that side (RFC 5737 has these networks for documentation)."""
ROUTER = "198.51.100.2"
SERVER = "203.0.113.1"
_UNIT = "outside-server"


@contextmanager
def outside(laboratory: Laboratory) -> Iterator[None]:
    """SERVER and ROUTER answer HTTP on port 80 with the word ``outside``."""
    laboratory.sh(
        f"""
        ip netns add outside
        ip link add uplink type veth peer name far netns outside
        ip address add {UPLINK}/24 dev uplink
        ip link set uplink up
        ip -n outside address add {ROUTER}/24 dev far
        ip -n outside address add {SERVER}/32 dev lo
        ip -n outside link set lo up
        ip -n outside link set far up
        ip route add 203.0.113.0/24 via {ROUTER}
        mkdir -p /tmp/outside
        echo outside >/tmp/outside/index.html
        systemd-run --quiet --unit {_UNIT} ip netns exec outside python3 -u -m http.server --directory /tmp/outside 80
        until curl -s -o /dev/null http://{SERVER}/; do sleep 0.3; done
        """
    )
    try:
        yield
    finally:
        laboratory.sh(f"systemctl stop {_UNIT}; ip netns delete outside; ip link delete uplink 2>/dev/null || :; rm -r /tmp/outside")


def visitors(laboratory: Laboratory) -> set[str]:
    """Addresses that the servers have seen requests from."""
    return {line.split()[0] for line in laboratory.ok("journalctl", "-u", _UNIT, "-o", "cat", "--no-pager").splitlines() if '"GET ' in line}
