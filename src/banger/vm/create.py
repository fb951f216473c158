"""Making a machine: validate, then reserve name and row in one transaction."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from ..host import facts
from ..model.durations import check_duration
from ..model.errors import AlreadyExists, BadRequest, StoreError
from ..model.forwards import Forward, check_forwards
from ..model.limits import SizeDefaults, check_spec
from ..model.names import check_vm_name, generate_name, new_id
from ..model.rates import Rates, check_rates, with_rates
from ..model.records import ImageRecord, VMRecord, VMRuntime, VMSpec, VMState
from ..model.sizes import MIB
from .bounds import check_limits_hold
from .context import Services
from .network import new_address
from .start import choose_uid

_NAME_ATTEMPTS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class NewVM:
    """What a caller asks for; omitted values take the defaults of this host. Sizes are bytes."""

    name: str = ""
    image: str = ""
    vcpu_count: int | None = None
    memory_mib: int | None = None
    system_overlay_bytes: int | None = None
    work_disk_bytes: int | None = None
    nat: bool = False
    publish: tuple[Forward, ...] = ()
    ttl_seconds: float = 0.0
    idle_seconds: float | None = None
    autostart: bool = False
    rates: Rates = field(default_factory=Rates)
    start: bool = True
    wait_booted: bool = False
    remove: bool = False
    credentials: str = ""
    """Absolute path of the caller's logins for registries."""


async def check_new(services: Services, new: NewVM) -> None:
    """Refuse what can be refused before anything is done: BadRequest, or AlreadyExists for a name or port that is taken now."""
    if new.name:
        check_vm_name(new.name)
        if services.vms.get_by_name(new.name) is not None:
            raise AlreadyExists(f"a machine named {new.name!r} already exists", hint=f"choose another --name, or: banger vm delete {new.name}")
    if new.autostart and new.remove:
        raise BadRequest("a machine that is deleted with its command cannot be started at boot", hint="leave out --rm or --autostart")
    _check_host_memory(new.memory_mib)
    check_spec(
        vcpu_count=new.vcpu_count,
        memory_mib=new.memory_mib,
        work_disk_bytes=new.work_disk_bytes,
        system_overlay_bytes=new.system_overlay_bytes,
    )
    check_duration(new.ttl_seconds, "ttl")
    check_duration(new.idle_seconds or 0.0, "idle")
    check_rates(new.rates)
    check_limits_hold(services, new.rates)
    check_forwards(new.publish)
    if new.start:
        await services.capabilities.check_publish(new.publish)


def _check_host_memory(memory_mib: int | None) -> None:
    host_mib = facts.memory_bytes() // MIB
    if memory_mib is not None and memory_mib > host_mib:
        raise BadRequest(f"memory of {memory_mib}M is more than this host has ({host_mib}M)", hint=f"for example --memory {max(host_mib // 4, 128)}M")


def resolve_spec(new: NewVM, defaults: SizeDefaults) -> VMSpec:
    """The sizes that the machine gets."""

    def pick(given: int | None, default: int) -> int:
        return default if given is None else given

    spec = VMSpec(
        vcpu_count=pick(new.vcpu_count, defaults.vcpu_count),
        memory_mib=pick(new.memory_mib, defaults.memory_mib),
        system_overlay_bytes=pick(new.system_overlay_bytes, defaults.system_overlay_bytes),
        work_disk_bytes=pick(new.work_disk_bytes, defaults.work_disk_bytes),
        nat=new.nat,
        publish=new.publish,
        ttl_seconds=new.ttl_seconds,
        idle_seconds=new.idle_seconds,
        autostart=new.autostart,
    )
    return with_rates(spec, new.rates)


def reserve(services: Services, new: NewVM, image: ImageRecord, spec: VMSpec) -> VMRecord:
    """Insert the row of a new machine. Raises AlreadyExists when another caller took the name first, NoSpace when there is no address for it."""
    with services.database.transaction():
        now = time.time()
        record = VMRecord(
            id=new_id(),
            name=new.name or _free_name(services),
            image_id=image.id,
            image_name=image.name,
            state=VMState.CREATED if new.start else VMState.STOPPED,
            created_at=now,
            updated_at=now,
            touched_at=now,
            spec=spec,
            runtime=VMRuntime(vmm=services.vmm.name, vmm_uid=choose_uid(services.vmm, services.vms.used_uids()), address=new_address(services)),
            remove=new.remove,
        )
        services.vms.insert(record)
        services.image_table.touch(image.id, now)
    return record


def _free_name(services: Services) -> str:
    for _ in range(_NAME_ATTEMPTS):
        name = generate_name()
        if services.vms.get_by_name(name) is None:
            return name
    fallback = f"vm-{new_id()[:8]}"
    if services.vms.get_by_name(fallback) is not None:
        raise StoreError("no free name was found", hint="give one with --name")
    return fallback
