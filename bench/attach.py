"""How long a machine waits for its place on the bridge, in a network namespace of its own."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Coroutine
from typing import Any, Final

from banger.helper.network.host_network import HostNetwork
from banger.model.network import network_plan
from bench.lifecycle import percentile
from bench.samples import Finding, median
from tests.e2e.instance import Instance
from tests.net.namespaces import Namespace, namespace

SLOTS: Final = range(2, 62)
_ROUNDS: Final = 5


def attach(_: Instance) -> list[Finding]:
    """Tap, address and rules, without and with a pool; with NAT; and what a deletion waits for."""
    if os.geteuid() != 0:
        print("attach needs root for a network namespace: left out", file=sys.stderr)
        return []
    with namespace("bench") as host:
        samples = host.do(_measure(HostNetwork(network_plan())))
        _check(host)
    return [
        _finding("attach to the bridge, tap made", samples["cold"], 10, samples),
        _finding("the same with the pool", samples["warm"], 3),
        _finding("the same with the pool, and NAT switched on", samples["nat"], 10),
        _finding("detach with NAT, tap kept; behind a deletion's back", samples["release"], 50),
        _finding("a look at the whole network that finds nothing to repair", samples["ensure"], 50),
    ]


async def _measure(network: HostNetwork) -> dict[str, list[float]]:
    samples: dict[str, list[float]] = {name: [] for name in ("cold", "warm", "nat", "release", "ensure")}
    await network.ensure_network()
    for _ in range(_ROUNDS):
        for slot in SLOTS:
            samples["cold"].append(await _seconds(network.attach_tap("bench", slot, nat=False)))
        for slot in SLOTS:
            samples["warm"].append(await _seconds(network.attach_tap("bench", slot, nat=False)))
        for slot in SLOTS[:10]:
            samples["nat"].append(await _seconds(network.attach_tap("bench", slot, nat=True)))
            samples["release"].append(await _seconds(network.release_taps([slot], keep=True)))
        samples["ensure"].append(await _seconds(network.ensure_network()))
        await network.release_taps(SLOTS, keep=False)
    return samples


async def _seconds(work: Coroutine[Any, Any, object]) -> float:
    begun = time.perf_counter()
    await work
    return time.perf_counter() - begun


def _check(host: Namespace) -> None:
    if "banger0-" in host.sh("ip -br link"):
        raise RuntimeError("taps were left behind")


def _finding(what: str, values: list[float], limit: float, samples: dict[str, list[float]] | None = None) -> Finding:
    words = f"{what} (p50; p95 {percentile(values, 0.95) * 1000:.2g} ms)"
    return Finding(what=words, value=median(values) * 1000, unit="ms", limit=limit, samples=samples or {})
