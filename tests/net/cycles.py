"""Attach and detach, again and again."""

from __future__ import annotations

import os

from tests.net.lab import Lab


def cycles_leave_nothing(found: Lab, count: int) -> None:
    """So many cycles over a few slots, with and without NAT, kept and deleted; then the host and this process are as before."""
    network, host = found.network, found.host

    async def cycle(number: int) -> None:
        slot = 2 + number % 5
        await network.attach_tap(f"vm{number}", slot, nat=number % 3 == 0)
        await network.release_taps([slot], keep=number % 4 != 0)

    async def cycles(first: int, beyond: int) -> None:
        for number in range(first, beyond):
            await cycle(number)
        await network.release_taps(range(2, 7), keep=False)

    host.do(network.ensure_network())
    host.do(cycles(0, 10))
    before = (host.sh("nft list ruleset; ip -br link; bridge fdb show br banger0"), len(os.listdir("/proc/self/fd")))
    host.do(cycles(10, 10 + count))
    assert (host.sh("nft list ruleset; ip -br link; bridge fdb show br banger0"), len(os.listdir("/proc/self/fd"))) == before
    state = host.do(network.inspect_network())
    assert (state.taps, state.nat, state.warnings) == ((), {}, ())
