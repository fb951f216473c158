"""Firewalls of others beside ours. Docker's has a chain made for rules like ours; of all others we tell what to type, and touch nothing.

What one table accepts another may still drop, so a foreign table that drops forwarded packets cuts the machines off whatever ours says.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ...host.run import run
from ...model.errors import MissingTool
from .firewall import Firewall

DOCKER_CHAIN: Final = "DOCKER-USER"
"""Docker makes it for the administrator's rules, calls it first and never empties it (docs.docker.com, "Packet filtering and firewalls")."""
_LEGACY: Final = Path("/proc/net/ip_tables_names")
_WORDS: Final = re.compile(r"[\w-]+")
_DEADLINE: Final = 10.0


@dataclass(frozen=True, slots=True)
class ForeignTable:
    """A table that packets of ours pass too."""

    family: str
    name: str
    tool: str
    """``nft``, ``iptables`` or ``iptables-legacy``: what its owner changes it with."""
    closed: Mapping[str, str]
    """Base chain by hook (``input``, ``forward``), of those that drop what no rule lets through."""
    rules: Mapping[str, tuple[str, ...]]
    """Rules by chain, as text."""

    def reached_from(self, chain: str) -> frozenset[str]:
        """This chain and all that its rules lead to."""
        found, ahead = {chain}, [chain]
        while ahead:
            words = {word for rule in self.rules.get(ahead.pop(), ()) for word in _WORDS.findall(rule)}
            ahead += (new := (words & self.rules.keys()) - found)
            found |= new
        return frozenset(found)

    def names(self, bridge: str, chains: Iterable[str] | None = None) -> int:
        """In how many rules of these chains (default: all) the bridge is named."""
        word = re.compile(rf"(?<![\w-]){re.escape(bridge)}(?![\w-])")
        return sum(bool(word.search(rule)) for chain in (self.rules if chains is None else chains) for rule in self.rules.get(chain, ()))


async def read_foreign(firewall: Firewall, bridge: str) -> tuple[ForeignTable, ...]:
    """Tables of others that see IPv4, from what nft told, and from the old iptables where a host still has rules of it."""
    return (*nft_tables(firewall, bridge), *await _legacy_tables())


def nft_tables(firewall: Firewall, bridge: str) -> Iterable[ForeignTable]:
    """Tables of others in nftables, those of iptables-nft among them."""
    for family, name in sorted(firewall.tables):
        chains = firewall.of(family, name)
        if family not in {"ip", "inet"} or (name == bridge and family == "inet"):
            continue
        closed = {
            chain.hook: chain.name
            for chain in chains.values()
            if chain.hook in {"input", "forward"} and (chain.policy == "drop" or chain.ends_closed or name == "firewalld")
        }
        by_iptables = (family, name) == ("ip", "filter") and not chains.keys().isdisjoint({"INPUT", "FORWARD"})
        yield ForeignTable(family, name, "iptables" if by_iptables else "nft", closed, {chain.name: chain.rules for chain in chains.values()})


async def _legacy_tables() -> tuple[ForeignTable, ...]:
    try:
        if "filter" not in _LEGACY.read_text().split():
            return ()
        listing = await run(["iptables-legacy", "-w", "5", "-S"], deadline=_DEADLINE)
    except (OSError, MissingTool):
        return ()
    return (legacy_table(listing.stdout.decode(errors="replace")),)


def legacy_table(listing: str) -> ForeignTable:
    """The filter table as ``iptables -S`` tells it."""
    closed: dict[str, str] = {}
    rules: dict[str, tuple[str, ...]] = {}
    for line in listing.splitlines():
        match line.split(maxsplit=2):
            case ["-P", name, policy]:
                rules[name] = ()
                if policy == "DROP" and name in {"INPUT", "FORWARD"}:
                    closed[name.lower()] = name
            case ["-N", name]:
                rules[name] = ()
            case ["-A", name, rule]:
                rules[name] = (*rules.get(name, ()), rule)
    return ForeignTable("ip", "filter", "iptables-legacy", closed, rules)


def warnings(tables: Iterable[ForeignTable], bridge: str) -> tuple[str, ...]:
    """One line for each table that keeps machines from the outside or from the host's DNS, with what to type."""
    return tuple(line for table in tables for line in _warnings(table, bridge))


def _warnings(table: ForeignTable, bridge: str) -> Iterable[str]:
    if not table.closed:
        return
    if table.name == "firewalld":
        if not table.names(bridge):
            yield f"firewalld drops what machines send: sudo firewall-cmd --permanent --zone=trusted --add-interface={bridge} && sudo firewall-cmd --reload"
        return
    ufw = any(chain.startswith("ufw-") for chain in table.rules)
    for hook, chain in sorted(table.closed.items()):
        if hook == "forward" and DOCKER_CHAIN in table.rules and table.names(bridge, [DOCKER_CHAIN]) >= 2:
            continue
        if ufw and not table.names(bridge, [f"ufw-user-{hook}"]):
            yield _UFW[hook].format(bridge=bridge)
        elif not ufw and not table.names(bridge, table.reached_from(chain)):
            yield _remedy(table, hook, chain, bridge)


_UFW: Final = {
    "forward": "ufw drops what machines send: sudo ufw route allow in on {bridge}",
    "input": "ufw drops what machines ask the host's DNS: sudo ufw allow in on {bridge} to any port 53",
}


def _remedy(table: ForeignTable, hook: str, chain: str, bridge: str) -> str:
    what = "what machines send and get" if hook == "forward" else "what machines ask the host's DNS"
    directions = ("i", "o") if hook == "forward" else ("i",)
    if table.tool == "nft":
        where = f"sudo nft insert rule {table.family} {table.name} {chain}"
        commands = [f"{where} {direction}ifname {bridge} accept" for direction in directions]
    else:
        commands = [f"sudo {table.tool} -I {chain} -{direction} {bridge} -j ACCEPT" for direction in directions]
    return f"the table {table.family} {table.name} drops {what}: {' && '.join(commands)}"


async def join_docker(tables: Iterable[ForeignTable], bridge: str) -> bool:
    """Let the bridge's packets through Docker's chain for such rules, where it is; returns whether anything was missing. Raises MissingTool, CommandFailed."""
    changed = False
    for table in tables:
        if DOCKER_CHAIN in table.rules and table.names(bridge, [DOCKER_CHAIN]) < 2:
            await leave_docker([table], bridge)
            for rule in _docker_rules(bridge):
                await run([table.tool, "-w", "5", "-I", DOCKER_CHAIN, *rule], deadline=_DEADLINE)
            changed = True
    return changed


async def leave_docker(tables: Iterable[ForeignTable], bridge: str) -> None:
    """Remove what ``join_docker`` added. Success when it is not there."""
    for table in tables:
        if table.names(bridge, [DOCKER_CHAIN]):
            for rule in _docker_rules(bridge):
                await run([table.tool, "-w", "5", "-D", DOCKER_CHAIN, *rule], deadline=_DEADLINE, allowed=(0, 1))


def has_docker(tables: Iterable[ForeignTable]) -> bool:
    """Docker has made its chain here, and with it relies on forwarding."""
    return any(DOCKER_CHAIN in table.rules for table in tables)


def _docker_rules(bridge: str) -> Iterable[list[str]]:
    for direction in ("-i", "-o"):
        yield [direction, bridge, "-m", "comment", "--comment", f"banger: {bridge}", "-j", "ACCEPT"]
