"""What an administrator can do by hand where there is no systemd-resolved. docs/network.md has the same with reasons."""

from __future__ import annotations

from pathlib import Path

from ...host.run import find_tool
from ...model.errors import MissingTool


def recipe(bridge: str, port: int, *, root: Path = Path("/")) -> str:
    """Commands for what this host has, a line each; ``root`` is where it is looked at."""
    if (root / "run/NetworkManager").is_dir() and _installed("dnsmasq"):
        return network_manager(port)
    if (root / "etc/dnsmasq.d").is_dir() and _installed("dnsmasq"):
        return dnsmasq(bridge, port)
    return plain(port)


def network_manager(port: int) -> str:
    """NetworkManager runs a dnsmasq of its own."""
    return "\n".join(
        (
            r"printf '[main]\ndns=dnsmasq\n' | sudo tee /etc/NetworkManager/conf.d/banger.conf",
            f"echo server=/vm/127.0.0.1#{port} | sudo tee /etc/NetworkManager/dnsmasq.d/banger.conf",
            "sudo systemctl restart NetworkManager",
        )
    )


def dnsmasq(bridge: str, port: int) -> str:
    """dnsmasq as a service of its own, which must leave port 53 of the bridge to us."""
    return "\n".join(
        (
            rf"printf 'server=/vm/127.0.0.1#{port}\nbind-dynamic\nexcept-interface={bridge}\n' | sudo tee /etc/dnsmasq.d/banger.conf",
            "sudo systemctl restart dnsmasq    # /etc/resolv.conf has to name 127.0.0.1",
        )
    )


def plain(port: int) -> str:
    """/etc/resolv.conf alone knows neither ports nor domains: something has to be installed, or lookups be made by hand."""
    return "\n".join(
        (
            "sudo apt-get install systemd-resolved    # nothing else to do: banger tells it",
            f"without it, names are found by: dig @127.0.0.1 -p {port} NAME.vm +short",
        )
    )


def _installed(tool: str) -> bool:
    try:
        find_tool(tool)
    except MissingTool:
        return False
    return True
