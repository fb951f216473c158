"""Published ports: ports of this host that lead into a machine for as long as it runs, and forwards that a client holds."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass

from ..access.doors import Door, Doors
from ..access.listening import check_free
from ..guest.agent import Agent, Connection
from ..model.errors import BangerError, GuestError, NotRunning
from ..model.forwards import Forward
from ..model.records import VMRecord, VMState

log = logging.getLogger(__name__)

_CONNECT_SECONDS = 15.0
RETRY_SECONDS = 30.0
"""How often a port that was taken when the daemon started is tried again."""
_LOOPBACKS = ("127.0.0.1", "::1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A published port of a machine as it is now."""

    forward: Forward
    open: bool
    error: str = ""
    """Why it is not open although the machine runs."""


@dataclass(slots=True)
class HeldForwards:
    """Forwards that somebody holds: gone with whoever holds them, or with the machine's run."""

    forwards: tuple[Forward, ...]
    """With their real ports."""
    _doors: tuple[Door, ...]
    _close: Callable[[HeldForwards], None]
    on_end: Callable[[], None] = lambda: None
    """Called when the machine's run ends first."""
    ended: bool = False
    """It has."""

    def end(self) -> None:
        """The machine's run has ended."""
        self.ended = True
        self.on_end()

    def close(self) -> None:
        """Listen no more; a second call does nothing."""
        self._close(self)


class PublishedPorts:
    """Listens when the host is prepared, lets clients in once the machine is ready, and closes when its run ends."""

    name = "published-ports"

    def __init__(self, agent: Callable[[str], Agent], hold: Callable[[str], Callable[[], None]], note: Callable[[str, str], None]) -> None:
        """``agent``: that of a running machine; ``hold`` begins a use of a machine and returns what ends it; ``note`` makes an event of a complaint."""
        self._agent = agent
        self._hold = hold
        self._note = note
        self._ways: dict[str, Doors] = {}
        self._held: dict[str, list[HeldForwards]] = {}
        self._errors: dict[str, dict[Forward, str]] = {}
        self._retrying: asyncio.Task[None] | None = None
        self._first: dict[str, Agent] = {}
        """Of machines that were started here: who waited for one is let in a moment before its row says that it runs."""

    async def check_publish(self, forwards: Sequence[Forward]) -> None:
        check_free(forwards)

    async def prepare_host(self, record: VMRecord) -> None:
        if record.spec.publish:
            self._doors(record.id).open(record.spec.publish)

    async def post_start(self, record: VMRecord, agent: Agent) -> None:
        self._first[record.id] = agent
        if record.id in self._ways:
            await self._ways[record.id].serve()

    async def clean_up(self, vm_id: str) -> None:
        self._errors.pop(vm_id, None)
        self._first.pop(vm_id, None)
        for held in self._held.pop(vm_id, []):
            held.end()
        if doors := self._ways.pop(vm_id, None):
            doors.close_all()

    async def apply_change(self, before: VMRecord, after: VMRecord) -> None:
        """Only for a machine that runs here: any other listens when it is started, or resumed."""
        if before.spec.publish == after.spec.publish or not self._runs(before):
            return
        errors = self._errors.get(before.id, {})
        doors = self._doors(before.id)
        doors.close_forwards([one for one in before.spec.publish if one not in after.spec.publish])
        doors.open([one for one in after.spec.publish if one not in before.spec.publish])
        self._errors[before.id] = {one: why for one, why in errors.items() if one in after.spec.publish}
        await doors.serve()

    async def resume(self, records: Sequence[VMRecord]) -> None:
        """Listen again for machines that run; a port that somebody took meanwhile is no reason to do less for the others."""
        for record in records:
            if record.state is VMState.RUNNING and record.spec.publish:
                doors = self._doors(record.id)
                for forward in record.spec.publish:
                    self._reopen(record, doors, forward)
                await doors.serve()
        if self._errors:
            self._retrying = asyncio.create_task(self._retry(), name="retry published ports")

    async def close(self) -> None:
        if self._retrying is not None:
            self._retrying.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._retrying
        for doors in self._ways.values():
            doors.close_all()
        self._ways.clear()
        await asyncio.sleep(0)  # the connections end in the next turn

    def published(self, record: VMRecord) -> tuple[Published, ...]:
        """What the machine publishes, and what has become of it."""
        doors, errors = self._ways.get(record.id), self._errors.get(record.id, {})
        listening = set(doors.forwards) if doors is not None else set()
        return tuple(Published(forward=one, open=one in listening, error=errors.get(one, "")) for one in record.spec.publish)

    async def forward(self, record: VMRecord, forwards: Sequence[Forward]) -> HeldForwards:
        """Listen for these until they are closed, or the machine's run ends. Raises NotRunning, GuestError, AlreadyExists, BadRequest."""
        self._agent(record.id)
        doors = self._doors(record.id)
        opened = doors.open(forwards)
        await doors.serve()

        def close(held: HeldForwards) -> None:
            doors.close(opened)
            if held in (present := self._held.get(record.id, [])):
                present.remove(held)

        held = HeldForwards(tuple(door.forward for door in opened), opened, close)
        self._held.setdefault(record.id, []).append(held)
        return held

    def _runs(self, record: VMRecord) -> bool:
        try:
            self._agent(record.id)
        except NotRunning:
            return False
        except GuestError:  # it runs and does not answer right now
            return True
        return True

    def _reopen(self, record: VMRecord, doors: Doors, forward: Forward) -> None:
        try:
            doors.open((forward,))
        except BangerError as error:
            log.warning("a published port is not open", extra={"vm_id": record.id, "vm_name": record.name, "error": error.message})
            self._errors.setdefault(record.id, {})[forward] = error.message
            self._note(record.id, error.message)

    async def _retry(self) -> None:
        """Until each of them is open, or its machine's run has ended."""
        while any(self._errors.values()):
            await asyncio.sleep(RETRY_SECONDS)
            for vm_id in list(self._errors):
                await self._open_again(vm_id)

    async def _open_again(self, vm_id: str) -> None:
        errors = self._errors.get(vm_id)
        if not errors:  # its run may have ended meanwhile
            return
        doors = self._doors(vm_id)
        for forward in list(errors):
            try:
                doors.open((forward,))
            except BangerError as error:
                errors[forward] = error.message
            else:
                del errors[forward]
                log.info("a published port is open at last", extra={"vm_id": vm_id, "endpoint": forward.endpoint})
        await doors.serve()

    def _doors(self, vm_id: str) -> Doors:
        def dial(port: int) -> Awaitable[Connection]:
            first = self._first.get(vm_id)
            return connect(self._agent(vm_id) if first is None or first.closed else first, port, _LOOPBACKS)

        return self._ways.setdefault(vm_id, Doors(dial, lambda: self._hold(vm_id)))


async def connect(agent: Agent, port: int, addresses: Iterable[str]) -> Connection:
    """Connect to the port at the first of these addresses where somebody listens. Raises GuestError as the last one was answered."""
    refusal = GuestError("nothing was tried")
    for address in addresses:
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                return await agent.connect(address, port)
        except GuestError as error:
            refusal = error
            if error.guest_code != "refused":
                break
        except TimeoutError:
            refusal = GuestError(f"port {port} did not answer within {_CONNECT_SECONDS:g} s")
            break
    raise refusal
