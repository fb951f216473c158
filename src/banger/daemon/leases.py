"""Leases: machines that live only as long as a client's connection (``--rm``), however that connection ends."""

from __future__ import annotations

import asyncio
import logging
from typing import Final, Protocol

from ..model.errors import BadRequest, NotFound
from ..model.names import short_id
from ..model.opid import current_op_id, new_op_id
from ..model.progress import Report, silent
from ..model.records import VMRecord
from .operations import Operation

log = logging.getLogger(__name__)

_RETRIES: Final = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Seconds before each further attempt to delete a machine."""


class Deletes(Protocol):
    """What a lease needs of the machines."""

    async def delete(self, ref: str, *, report: Report) -> VMRecord:
        """Remove the machine; raises NotFound when it is gone."""


class Lease:
    """What lives under one lease: creations that run, and machines by id."""

    def __init__(self, lease_id: str) -> None:
        self.id = lease_id
        self.ended = False
        self.creations: set[Operation] = set()
        self.vms: set[str] = set()


class Leases:
    """The leases that are held, or wait for their holder."""

    def __init__(self, machines: Deletes, retries: tuple[float, ...] = _RETRIES) -> None:
        self._machines = machines
        self._retries = retries
        self._held: dict[str, Lease] = {}
        self._ending: set[asyncio.Task[None]] = set()

    def create(self) -> Lease:
        """A fresh lease."""
        lease = Lease(f"lease-{new_op_id()[3:]}")
        self._held[lease.id] = lease
        return lease

    def find(self, lease_id: str) -> Lease:
        """The held lease of this id. Raises BadRequest: the holder has gone, and so would the machine at once."""
        lease = self._held.get(lease_id)
        if lease is None:
            raise BadRequest(f"no lease {lease_id!r}, or it has ended", hint="the lease's connection must stay open")
        return lease

    def end(self, lease: Lease) -> None:
        """The holder has gone: cancel what is being made under the lease and delete what was made. Does nothing the second time."""
        if lease.ended:
            return
        lease.ended = True
        del self._held[lease.id]
        task = asyncio.create_task(self._clear(lease), name=f"end of {lease.id}")
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def close(self, *, deadline: float) -> None:
        """End all leases and wait up to ``deadline`` seconds for their machines to go. The next daemon deletes what is left."""
        for lease in list(self._held.values()):
            self.end(lease)
        if not self._ending:
            return
        _, late = await asyncio.wait(self._ending, timeout=deadline)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=1.0)

    async def _clear(self, lease: Lease) -> None:
        current_op_id.set(new_op_id())
        if lease.creations or lease.vms:
            log.info("lease ended", extra={"lease": lease.id, "vms": sorted(map(short_id, lease.vms))})
        for creation in list(lease.creations):
            creation.cancel()
        for creation in list(lease.creations):
            await creation.ended.wait()
        await asyncio.gather(*(self._delete(vm_id) for vm_id in lease.vms))

    async def _delete(self, vm_id: str) -> None:
        for pause in (*self._retries, None):
            try:
                await self._machines.delete(vm_id, report=silent)
            except NotFound:
                return
            except Exception:
                log.exception("cannot delete a machine whose lease has ended" + ("" if pause is None else ", trying again"), extra={"vm_id": vm_id})
            else:
                log.info("deleted a machine whose lease has ended", extra={"vm_id": vm_id})
                return
            if pause is not None:
                await asyncio.sleep(pause)


class LeaseHold:
    """The session of a connection on attach.sock that holds a lease by being open."""

    def __init__(self, leases: Leases, lease: Lease) -> None:
        self._leases = leases
        self._lease = lease

    def received(self, untrusted: bytes) -> None:
        """Holding is all there is to it."""

    def ended(self) -> None:
        """The holder has gone."""
        self._leases.end(self._lease)

    def stop(self, why: str) -> None:
        """Nothing is said on such a connection."""
