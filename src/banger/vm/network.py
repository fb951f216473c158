"""A machine's network as its row keeps it: the address is chosen once, the tap is named before it is made and until it is released."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from ..model.errors import NotFound, StoreError
from ..model.records import VMRecord, VMRuntime
from ..net.protocol import AssignsPlaces, Attachment, NetworkPlace
from .context import Services

log = logging.getLogger(__name__)


def new_address(services: Services) -> str:
    """An address for a new machine, "" where machines have none; call in the transaction that stores it. Raises NoSpace."""
    return services.network.free_address(services.vms.used_addresses()) if isinstance(services.network, AssignsPlaces) else ""


async def attach_network(services: Services, record: VMRecord) -> Attachment:
    """Connect a machine that is about to be launched; its row names what teardown needs before there is anything."""
    place = _settle_place(services, record.id)
    files = services.layout.vm(record.id)
    return await services.network.attach(record.id, files, place, nat=record.spec.nat, uid=record.runtime.vmm_uid)


async def detach_network(services: Services, vm_id: str) -> None:
    """Undo ``attach_network``, from the row alone; success when there is nothing."""
    record = services.vms.get(vm_id)
    place = NetworkPlace() if record is None else place_of(record)
    await services.network.detach(vm_id, services.layout.vm(vm_id), place)
    # Nothing may await here: whoever looks at the rows next believes them.
    if place.tap and isinstance(services.network, AssignsPlaces):
        try:
            _change(services, vm_id, lambda runtime: replace(runtime, tap=""))
        except StoreError as error:  # the machine is ended all the same; to release a tap twice is harmless
            log.warning("the row still names a tap that was released", extra={"vm_id": vm_id, "tap": place.tap, "error": error.message})


def place_of(record: VMRecord) -> NetworkPlace:
    """Where the machine is, as its row says."""
    return NetworkPlace(address=record.runtime.address, tap=record.runtime.tap)


def _settle_place(services: Services, vm_id: str) -> NetworkPlace:
    network = services.network
    record = services.vms.get(vm_id)
    if record is None:
        raise NotFound(f"the machine {vm_id} is gone")
    if not isinstance(network, AssignsPlaces):
        return place_of(record)
    with services.database.transaction():
        place = network.place_at(record.runtime.address or new_address(services))  # one that was made without a bridge gets its address now
        _change(services, vm_id, lambda runtime: replace(runtime, address=place.address, tap=place.tap))
    return place


def _change(services: Services, vm_id: str, change: Callable[[VMRuntime], VMRuntime]) -> None:
    services.vms.update(vm_id, lambda record: replace(record, runtime=change(record.runtime)))
