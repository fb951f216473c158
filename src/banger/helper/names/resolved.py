"""systemd-resolved: it asks us for ``.vm``, and nobody else; it asks us for nothing else (resolvectl(1))."""

from __future__ import annotations

import logging
import socket
from ipaddress import IPv4Network
from pathlib import Path
from typing import Final

from ...host.run import find_tool, run
from ...model.errors import CommandFailed, MissingTool
from ...model.network import NetworkPlan

log = logging.getLogger(__name__)

SOCKET: Final = Path("/run/systemd/resolve/io.systemd.Resolve")
"""Where it listens for nss-resolve, since systemd 247; the file outlives it, so it is connected to."""
TOP_DOMAIN: Final = "~vm"
"""``~``: names below it are asked for here; it completes none."""
_DEADLINE: Final = 20.0
_MOST_REVERSE_ZONES: Final = 16


def is_running() -> bool:
    """Whether it runs and can be told. Starts nothing."""
    try:
        find_tool("resolvectl")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as sock:
            sock.settimeout(1.0)
            sock.connect(str(SOCKET))
    except (OSError, MissingTool):
        return False
    return True


def has_link(bridge: str) -> bool:
    """Whether there is such a link."""
    return Path("/sys/class/net", bridge).exists()


def domains(subnet: IPv4Network) -> tuple[str, ...]:
    """What it shall ask us for: our names, and the addresses of the subnet as far as whole reverse zones are ours."""
    if subnet.prefixlen == 16:
        zones = [subnet]
    elif subnet.prefixlen <= 24 and 1 << 24 - subnet.prefixlen <= _MOST_REVERSE_ZONES:
        zones = list(subnet.subnets(new_prefix=24))
    else:
        zones = []
    return TOP_DOMAIN, *(f"~{_reverse(zone)}" for zone in zones)


def _reverse(zone: IPv4Network) -> str:
    labels = str(zone.network_address).split(".")[: zone.prefixlen // 8]
    return ".".join((*reversed(labels), "in-addr", "arpa"))


async def is_routed(plan: NetworkPlan, port: int) -> bool:
    """Whether it has been told and knows it still: a restart keeps that, a bridge that was made again has lost it."""
    shown = await run(["resolvectl", "status", "--no-pager", plan.bridge], deadline=_DEADLINE, allowed=range(256))
    words = set(shown.stdout.decode(errors="replace").split())
    return shown.status == 0 and {f"127.0.0.1:{port}", "-DefaultRoute", *domains(plan.subnet)} <= words


async def route(plan: NetworkPlan, port: int) -> None:
    """Tell it. Raises CommandFailed."""
    for verb, *values in (("dns", f"127.0.0.1:{port}"), ("domain", *domains(plan.subnet)), ("default-route", "no")):
        await run(["resolvectl", verb, plan.bridge, *values], deadline=_DEADLINE)
    for verb in ("dnssec", "dnsovertls", "llmnr"):  # whatever holds for the other links: we sign nothing and speak plainly
        try:
            await run(["resolvectl", verb, plan.bridge, "no"], deadline=_DEADLINE)
        except CommandFailed as error:
            log.warning("systemd-resolved does not take a setting of the bridge", extra={"setting": verb, "error": error.message})


async def revert(bridge: str) -> None:
    """Have it forget what it was told about the link. Raises CommandFailed."""
    await run(["resolvectl", "revert", bridge], deadline=_DEADLINE)
