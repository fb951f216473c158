"""The capability of reaching the outside through the host's bridge, or not, while a machine runs; it also has the bridge looked after."""

from __future__ import annotations

from collections.abc import Sequence

from ..model.errors import BangerError
from ..model.records import VMRecord
from ..net.protocol import SwitchesNat
from .capabilities import Finding
from .network import place_of


class Nat:
    """A machine that starts is let out when it is attached, one that ends is shut in when it is detached: only what changes in between is done here."""

    name = "nat"

    def __init__(self, network: SwitchesNat) -> None:
        self._network = network

    async def apply_change(self, before: VMRecord, after: VMRecord) -> None:
        if before.spec.nat != after.spec.nat and after.runtime.tap:
            await self._network.set_nat(place_of(after), nat=after.spec.nat)

    async def resume(self, records: Sequence[VMRecord]) -> None:
        await self._network.resume()

    async def close(self) -> None:
        await self._network.close()

    async def check_host(self) -> tuple[Finding, ...]:
        try:
            warnings = await self._network.check()
        except BangerError as error:
            return (Finding(name="bridge", status="fail", detail=error.message, remedy=error.hint),)
        if not warnings:
            return (Finding(name="bridge", status="pass", detail="machines have addresses and names of their own"),)
        return tuple(Finding(name="bridge", status="warn", detail=one) for one in warnings)
