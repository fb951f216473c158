"""Firewalls of others: what another table drops stays dropped whatever ours says. They are read as root; others see that they are there."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable
from typing import Final

from ..helper.network import firewall
from ..helper.network.foreign import ForeignTable, read_foreign, warnings
from .ground import Ground
from .outcome import Command, Fix, Result, passed, skipped, warned
from .packages import no_tool

_NO_BRIDGE: Final = "machines of this instance have no bridge"
_SEEN: Final = "sudo banger doctor looks into its rules"
_COMMAND: Final = re.compile(r"sudo (.*)")


def foreign(ground: Ground) -> Result:
    """Tables of others that would drop what machines send, each with its remedy, which is never carried out unasked."""
    if ground.plan is None:
        return skipped(_NO_BRIDGE)
    if os.geteuid() != 0:
        return _from_outside(ground)
    if no_tool("nft"):
        return skipped("nft is not installed")
    bridge = ground.plan.bridge
    tables = asyncio.run(_read(ground))
    if lines := warnings(tables, bridge):
        told = [line.partition(": sudo ") for line in lines]
        return warned("; ".join(what for what, _, _ in told), _remedy(" && ".join(f"sudo {how}" for _, _, how in told)))
    names = ", ".join(sorted({table.tool + " " + table.name for table in tables if table.closed})) or "none that drops what is forwarded"
    return passed(names)


async def _read(ground: Ground) -> tuple[ForeignTable, ...]:
    assert ground.plan is not None
    return await read_foreign(await firewall.read(ground.plan), ground.plan.bridge)


def _remedy(text: str) -> Fix:
    steps = tuple(Command(tuple(part.removeprefix("sudo ").split())) for part in text.split(" && "))
    return Fix(steps, foreign=True)


def _from_outside(ground: Ground) -> Result:
    """The daemon asks the helper what it sees in the rules (see ``bridge``)."""
    found = [name for name, is_there in (("ufw", _ufw(ground)), ("firewalld", _firewalld(ground)), ("Docker", _docker(ground))) if is_there]
    return (
        passed(f"{', '.join(found)} here; what they drop is told by the helper (see bridge), or: {_SEEN}")
        if found
        else passed("neither ufw, firewalld nor Docker")
    )


def _ufw(ground: Ground) -> bool:
    return "ENABLED=yes" in ground.read("/etc/ufw/ufw.conf")


def _firewalld(ground: Ground) -> bool:
    return ground.at("/run/firewalld").exists() or ground.at("/run/firewalld.pid").exists()


def _docker(ground: Ground) -> bool:
    return ground.at("/sys/class/net/docker0").exists() or ground.at("/run/docker.sock").exists()


def legacy(ground: Ground) -> Result:
    """Rules of the old iptables are not in nftables, and pass every packet as well."""
    if ground.plan is None:
        return skipped(_NO_BRIDGE)
    tables = ground.read("/proc/net/ip_tables_names").split()
    if not tables:
        return passed(
            "not in use" if os.access(ground.at("/proc/net/ip_tables_names"), os.R_OK) or os.geteuid() == 0 else "not known; sudo banger doctor looks"
        )
    return passed(f"iptables-legacy is in use ({', '.join(tables)}) beside nftables; both are taken into account")


def reload(ground: Ground) -> Result:
    """A configuration of nftables that begins with "flush ruleset" removes everybody's tables, ours too, whenever it is read again."""
    if ground.plan is None:
        return skipped(_NO_BRIDGE)
    enabled = ground.at("/etc/systemd/system/sysinit.target.wants/nftables.service").is_symlink()
    flushes = any(line.split("#")[0].strip() == "flush ruleset" for line in ground.read("/etc/nftables.conf").splitlines())
    if enabled and flushes:
        return passed("nftables.service flushes all tables when it is reloaded; ours are made again within seconds, and machines are cut off until then")
    return passed("nftables.service is not enabled" if not enabled else "nftables.service leaves others' tables alone")


CHECKS: Final[tuple[tuple[str, str, Callable[[Ground], Result]], ...]] = (
    ("network.firewalls", "other firewalls", foreign),
    ("network.iptables-legacy", "iptables-legacy", legacy),
    ("network.nftables-reload", "nftables.service", reload),
)
