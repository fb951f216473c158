"""Who may go out: changes of the NAT sets, gathered so that many callers at once cost one transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ...host.threads import finished
from ...model.errors import BangerError
from ...model.network import NetworkPlan
from . import firewall, ruleset


@dataclass(slots=True)
class _Batch:
    changes: dict[str, bool] = field(default_factory=dict)
    begun: bool = False
    error: BangerError | None = None


class NatSets:
    """The NAT sets of one plan, as far as this process knows them."""

    def __init__(self, plan: NetworkPlan) -> None:
        self._plan = plan
        self.lock = asyncio.Lock()
        """Held by whoever changes the sets, or replaces them by what they have just read."""
        self._next = _Batch()
        self._members: set[str] | None = None

    @property
    def members(self) -> frozenset[str]:
        """Addresses that were let out, as far as is known."""
        return frozenset(self._members or ())

    def saw(self, members: Iterable[str]) -> None:
        """These and no others are in the sets."""
        self._members = set(members)

    def may_have(self, address: str) -> bool:
        """The address is a member, or nobody has looked yet."""
        return self._members is None or address in self._members

    async def change(self, changes: Mapping[str, bool]) -> None:
        """Make the change, with all that others want meanwhile. Raises MissingTool, CommandFailed; then the sets are as they were.

        A cancellation waits: the transaction is others' too, and what its caller undoes next must come after it.
        """
        batch = self._next
        batch.changes.update(changes)
        async with self.lock:
            if not batch.begun:
                batch.begun = True
                self._next = _Batch()
                await finished(asyncio.ensure_future(self._apply(batch)))
        if batch.error is not None:
            raise batch.error

    async def _apply(self, batch: _Batch) -> None:
        try:
            await firewall.apply(ruleset.changed_nat(self._plan, batch.changes))
        except BangerError as error:
            batch.error = error
        else:
            self._note(batch.changes)

    def _note(self, changes: Mapping[str, bool]) -> None:
        if self._members is not None:
            self._members |= {address for address, member in changes.items() if member}
            self._members -= {address for address, member in changes.items() if not member}
