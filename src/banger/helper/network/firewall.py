"""Our nftables tables on this host: read, made, changed; one process and one transaction each time."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, summarize_address_range
from typing import Any, Final

from ...host.run import Completed, run
from ...model.errors import BadRequest, CommandFailed
from ...model.network import NetworkPlan, Traffic
from . import ruleset

log = logging.getLogger(__name__)

_DEADLINE: Final = 30.0
_ATTEMPTS: Final = 3
_GONE: Final = "No such file or directory"
_RACED: Final = ("Interrupted system call", "Device or resource busy", "Resource temporarily unavailable")


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain of any table, and its rules as nft tells them in JSON."""

    family: str
    table: str
    name: str
    hook: str
    policy: str
    rules: tuple[str, ...]
    ends_closed: bool
    """Its last rule drops or rejects whatever has come so far."""


@dataclass(frozen=True, slots=True)
class Firewall:
    """What nftables has."""

    chains: tuple[Chain, ...] = ()
    tables: frozenset[tuple[str, str]] = frozenset()
    nat: Mapping[str, Traffic] = field(default_factory=dict)
    networks: Mapping[str, frozenset[IPv4Network]] = field(default_factory=dict)

    def of(self, family: str, table: str) -> dict[str, Chain]:
        """The chains of one table, by name."""
        return {chain.name: chain for chain in self.chains if (chain.family, chain.table) == (family, table)}

    def has(self, plan: NetworkPlan) -> bool:
        """Any table of ours is there."""
        return any((family, plan.bridge) in self.tables for family in ("inet", "bridge"))

    def faults(self, plan: NetworkPlan) -> tuple[str, ...]:
        """Tables of ours that are missing or are not what they should be, in words."""
        wanted = {"inet": ruleset.rule_counts(ruleset.inet_rules(plan)), "bridge": ruleset.rule_counts(ruleset.bridge_rules(plan))}
        tag = ruleset.mark(plan)
        return tuple(
            f"the table {family} {plan.bridge}"
            for family, counts in wanted.items()
            if {name: len(chain.rules) for name, chain in self.of(family, plan.bridge).items()} != counts | {tag: 0}
        )

    def refuse_foreign(self, plan: NetworkPlan) -> None:
        """Raises BadRequest when somebody else has a table of our name."""
        for family in ("inet", "bridge"):
            chains = self.of(family, plan.bridge)
            if chains and not any(ruleset.is_mark(name) for name in chains):
                raise BadRequest(
                    f"the nftables table {family} {plan.bridge} is not ours",
                    hint=f"choose another name: [network] bridge; or: sudo nft delete table {family} {plan.bridge}",
                )


async def read(plan: NetworkPlan) -> Firewall:
    """Look at all chains of the host, and at the members of our sets. Raises MissingTool or CommandFailed."""
    objects, members = await asyncio.gather(_listed(plan), _table("inet", plan))
    sets = {str(found["set"]["name"]): list(found["set"].get("elem", ())) for found in members if "set" in found}
    return Firewall(
        chains=tuple(chains_of(objects)),
        tables=frozenset((found["table"]["family"], found["table"]["name"]) for found in objects if "table" in found),
        nat=traffic_of(sets.get(ruleset.SENT, []), sets.get(ruleset.RECEIVED, [])),
        networks={name: frozenset(networks_of(sets.get(name, []))) for name in (ruleset.NEIGHBOURS, ruleset.REACHABLE)},
    )


async def _listed(plan: NetworkPlan) -> list[dict[str, Any]]:
    """Everything but the elements of sets; our tables alone where there is more than ``run`` keeps."""
    try:
        return parse((await _nft("--json", "--terse", "list", "ruleset")).stdout)
    except ValueError:
        log.warning("the host has too many nftables rules to look for those that are in our way")
        return [*await _table("inet", plan), *await _table("bridge", plan)]


async def _table(family: str, plan: NetworkPlan) -> list[dict[str, Any]]:
    listing = await _nft("--json", "list", "table", family, plan.bridge, allowed=(0, 1))
    return parse(listing.stdout) if listing.status == 0 else []  # 1: no such table


async def apply(text: str) -> None:
    """One transaction. Raises CommandFailed; again only when another's transaction came between."""
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            await _nft("-f", "-", stdin=text.encode())
            return
        except CommandFailed as error:
            if attempt == _ATTEMPTS or not any(word in error.message for word in _RACED):
                raise


def is_gone(error: CommandFailed) -> bool:
    """The transaction named a table or set that is not there."""
    return _GONE in error.message


async def _nft(*words: str, stdin: bytes | None = None, allowed: Iterable[int] = (0,)) -> Completed:
    return await run(["nft", *words], deadline=_DEADLINE, stdin=stdin, allowed=allowed)


def parse(output: bytes) -> list[dict[str, Any]]:
    """Objects of a listing in JSON (libnftables-json(5))."""
    return list(json.loads(output)["nftables"]) if output.strip() else []


def chains_of(objects: Iterable[Mapping[str, Any]]) -> Iterable[Chain]:
    """Every chain, with its rules."""
    rules: dict[tuple[str, str, str], list[list[Any]]] = {}
    for found in objects:
        if rule := found.get("rule"):
            rules.setdefault((rule["family"], rule["table"], rule["chain"]), []).append(rule["expr"])
    for found in objects:
        if chain := found.get("chain"):
            inside = rules.get((chain["family"], chain["table"], chain["name"]), [])
            yield Chain(
                family=chain["family"],
                table=chain["table"],
                name=chain["name"],
                hook=chain.get("hook", ""),
                policy=chain.get("policy", ""),
                rules=tuple(json.dumps(rule) for rule in inside),
                ends_closed=bool(inside) and _drops_all(inside[-1]),
            )


def _drops_all(expressions: Iterable[Mapping[str, Any]]) -> bool:
    kinds = Counter(kind for expression in expressions for kind in expression)
    return bool(kinds) and set(kinds) <= {"drop", "reject", "counter", "log"} and bool({"drop", "reject"} & set(kinds))


def traffic_of(sent: Iterable[Any], received: Iterable[Any]) -> dict[str, Traffic]:
    """Members of the NAT sets and their counters; who is in one alone counts as a member, so that it is seen."""
    out, back = _counters(sent), _counters(received)
    return {
        address: Traffic(
            sent_packets=out.get(address, (0, 0))[0],
            sent_bytes=out.get(address, (0, 0))[1],
            received_packets=back.get(address, (0, 0))[0],
            received_bytes=back.get(address, (0, 0))[1],
        )
        for address in sorted(out.keys() | back.keys(), key=IPv4Address)
    }


def _counters(elements: Iterable[Any]) -> dict[str, tuple[int, int]]:
    found = {}
    for element in elements:
        match element:
            case {"elem": {"val": str(address), "counter": {"packets": int(packets), "bytes": int(size)}}}:
                found[address] = (packets, size)
            case {"elem": {"val": str(address)}} | str(address):
                found[address] = (0, 0)
    return found


def networks_of(elements: Iterable[Any]) -> Iterable[IPv4Network]:
    """Networks that a set of intervals holds."""
    for element in elements:
        match element:
            case {"prefix": {"addr": str(address), "len": int(length)}}:
                yield IPv4Network((address, length))
            case {"range": [str(first), str(last)]}:
                yield from summarize_address_range(IPv4Address(first), IPv4Address(last))
            case str(address):
                yield IPv4Network(address)
