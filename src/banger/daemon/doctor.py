"""What only a daemon can find out for ``doctor``: whether a guest runs, what its capabilities and images say, and what is left over."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import resource
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

from ..image import namespace
from ..image.service import Bootable, ImageService
from ..model.checks import Check, Status
from ..model.config import describe_sizes
from ..model.errors import BangerError
from ..model.limits import DEFAULT_IMAGE, SizeDefaults
from ..model.progress import silent
from ..model.sizes import format_size
from ..vm.capabilities import Finding
from ..vm.leftovers import Leftover
from ..vmm.protocol import Inspects, Vmm, VmmProbe
from .context import Context

log = logging.getLogger(__name__)

_SECONDS: Final = 20.0
"""What a check may take; a test guest has ten seconds, once per boot of the host."""
_DESCRIPTORS_FREE: Final = 256
_GROUPS: Final = {
    "disks": "virtualisation",
    "ssh client": "installation",
    "names": "network",
    "names for guests": "network",
    "names on this host": "network",
    "tun": "virtualisation",
}
"""Of findings of the capabilities, by name; a capability that is new is one of the network's."""
_NEW_DAEMON: Final = "banger daemon stop, then any command (installed: sudo banger system restart); the daemon's log says what keeps it from mending this"
Look = Callable[[], Awaitable[Sequence[Check]]]


async def run_checks(context: Context) -> tuple[Check, ...]:
    """Every check, all at once. Runs at most one tiny guest, and none when there is no image yet; changes nothing else."""
    machines, images, sizes = context.machines, context.images, context.machines.defaults()

    async def capabilities() -> Sequence[Check]:
        return from_findings(await machines.check_host())

    async def leftovers() -> Sequence[Check]:
        return (check_leftovers(await machines.collect_garbage(dry_run=True, report=silent)),)

    looks: dict[str, Look] = {
        "virtualisation.test-guest": lambda: check_machines(context.vmm, images, sizes),
        "images.namespaces": lambda: check_namespaces(images, sizes),
        "network.capabilities": capabilities,
        "installation.leftovers": leftovers,
        "installation.machine-size": lambda: _one(Check(id="installation.machine-size", name="machine size", status="pass", detail=describe_sizes(sizes))),
        "installation.descriptors": lambda: _one(check_descriptors()),
    }
    found = await asyncio.gather(*(_bounded(ident, look) for ident, look in looks.items()))
    return tuple(check for checks in found for check in checks)


async def _one(check: Check) -> Sequence[Check]:
    return (check,)


async def _bounded(ident: str, look: Look) -> Sequence[Check]:
    """One that fails to look, or takes too long, is a finding itself."""
    name = ident.partition(".")[2].replace("-", " ")
    try:
        async with asyncio.timeout(_SECONDS):
            return await look()
    except TimeoutError:
        return (Check(id=ident, name=name, status="fail", detail=f"no answer within {_SECONDS:g} s", remedy="banger daemon status names the daemon's log"),)
    except BangerError as error:
        return (refused(ident, name, error),)
    except Exception as error:
        log.exception("a check failed", extra={"check": ident})
        remedy = "please report this; banger daemon status names the daemon's log"
        return (Check(id=ident, name=name, status="fail", detail=f"the check itself failed: {error!r}", remedy=remedy),)


def refused(ident: str, name: str, error: BangerError, status: Status = "fail") -> Check:
    """What raised this error."""
    return Check(id=ident, name=name, status=status, detail=error.message, remedy=error.hint or "banger daemon status names the daemon's log")


def from_findings(findings: Sequence[Finding]) -> tuple[Check, ...]:
    """Findings of capabilities, each with an id; several of one name are numbered."""
    seen: Counter[str] = Counter()
    checks = []
    for one in findings:
        seen[one.name] += 1
        word = re.sub(r"[^a-z0-9]+", "-", one.name.lower()) + (f"-{seen[one.name]}" if seen[one.name] > 1 else "")
        detail, remedy = (one.detail, one.remedy) if one.remedy or one.status == "pass" else _split(one.detail)
        checks.append(Check(id=f"{_GROUPS.get(one.name, 'network')}.{word}", name=one.name, status=one.status, detail=detail, remedy=remedy))
    return tuple(checks)


def _split(line: str) -> tuple[str, str]:
    """Warnings of the network are one line each, the command to type at its end; without one it is something of ours, which a new daemon makes again."""
    detail, found, command = line.partition(": sudo ")
    return detail, f"sudo {command}" if found else _NEW_DAEMON


# -- machines --------------------------------------------------------------------------------------------------------------------------------------


async def check_machines(vmm: Vmm, images: ImageService, sizes: SizeDefaults) -> tuple[Check, ...]:
    """The VMM, whether a guest runs under KVM, and the default image, which is what the test guest boots."""
    has_image = any(image.name == sizes.image for image in images.list())
    bootable, image = await _default_image(images, sizes.image) if has_image else (None, await _image_to_be_built(images, sizes.image))
    return (*await _vmm(vmm, bootable, sizes.image), image)


async def _vmm(vmm: Vmm, bootable: Bootable | None, image: str) -> tuple[Check, ...]:
    ident = f"virtualisation.{vmm.name}"
    probe = await _probe(vmm, bootable)
    if probe is None:
        return (Check(id=ident, name=vmm.name, status="warn", detail="not known before there is an image", remedy=f"banger image pull {image}"),)
    if not probe.usable:
        return (Check(id=ident, name=vmm.name, status="fail", detail=probe.note, remedy=probe.hint),)
    return Check(id=ident, name=vmm.name, status="pass", detail=f"{probe.binary} {probe.version}".strip()), _acceleration(probe, image)


async def _probe(vmm: Vmm, bootable: Bootable | None) -> VmmProbe | None:
    """Inspected first: what a guest showed is remembered, and the program may have broken since."""
    inspected = await vmm.inspect() if isinstance(vmm, Inspects) else None
    if bootable is None or (inspected is not None and not inspected.usable):
        return inspected
    return await vmm.probe(bootable.kernel_file, bootable.initramfs)


def _acceleration(probe: VmmProbe, image: str) -> Check:
    ident, name = "virtualisation.kvm", "kvm"
    if probe.accelerator == "kvm":
        return Check(id=ident, name=name, status="pass", detail="a test guest runs")
    if probe.accelerator == "":
        detail, remedy = "the device is there; not tried before there is an image", f"banger image pull {image}"
        return Check(id=ident, name=name, status="warn", detail=detail, remedy=remedy)
    return Check(id=ident, name=name, status="warn", detail=probe.note, remedy=probe.hint or "dmesg | grep -i kvm; machines work without, slowly")


async def _default_image(images: ImageService, name: str) -> tuple[Bootable | None, Check]:
    ident, title, remedy = "images.default", "default image", f"banger image pull {name}"
    record = await images.show(name)
    if record.kernel_name not in {kernel.name for kernel in images.kernels.list()}:
        return None, Check(id=ident, name=title, status="warn", detail=f"{name} has lost its kernel {record.kernel_name}", remedy=remedy)
    try:
        bootable = await images.ensure(name, silent)
    except BangerError as error:
        return None, refused(ident, title, error)
    detail = f"{name} ({format_size(record.size_bytes)}), kernel {bootable.kernel.version}"
    return bootable, Check(id=ident, name=title, status="pass", detail=detail)


async def _image_to_be_built(images: ImageService, name: str) -> Check:
    ident, title = "images.default", "default image"
    try:
        known = any(entry.name == name for entry in await images.catalog())
    except BangerError as error:  # a mistake in a catalog of the user's
        return refused(ident, title, error)
    if known:
        return Check(id=ident, name=title, status="pass", detail=f"{name} is built on first use (banger image pull {name} builds it now)")
    remedy = "install banger again" if name == DEFAULT_IMAGE else "change default_image_name in config.toml (banger config show); banger image list --available"
    return Check(id=ident, name=title, status="fail", detail=f"{name} is neither here nor in the catalog", remedy=remedy)


# -- the daemon's own ------------------------------------------------------------------------------------------------------------------------------


async def check_namespaces(images: ImageService, sizes: SizeDefaults) -> tuple[Check, ...]:
    """Whether this process, in the bounds of its service, can make those that images are built in."""
    ident, name = "images.namespaces", "namespaces"
    has_image = any(image.name == sizes.image for image in images.list())
    try:
        await namespace.check()
    except BangerError as error:
        return (refused(ident, name, error, "warn" if has_image else "fail"),)
    return (Check(id=ident, name=name, status="pass", detail="root" if os.geteuid() == 0 else "user namespaces with subordinate ids work"),)


def check_leftovers(found: Sequence[Leftover]) -> Check:
    """What a crash left behind."""
    ident, name = "installation.leftovers", "leftovers"
    if not found:
        return Check(id=ident, name=name, status="pass", detail="none")
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(Counter(one.kind for one in found).items()))
    return Check(id=ident, name=name, status="warn", detail=f"{kinds} that no machine needs any more", remedy="banger gc")


def check_descriptors(place: Path = Path("/proc/self/fd")) -> Check:
    """How many files this process may still open; a running machine takes about twenty."""
    ident, name = "installation.descriptors", "daemon's files"
    limit, used = resource.getrlimit(resource.RLIMIT_NOFILE)[0], len(list(place.iterdir()))
    detail = f"{used} of {limit} open"
    if limit == resource.RLIM_INFINITY or limit - used >= _DESCRIPTORS_FREE:
        return Check(id=ident, name=name, status="pass", detail=detail)
    return Check(
        id=ident, name=name, status="warn", detail=detail, remedy="raise `ulimit -n` where the daemon is started: banger daemon stop, then any command"
    )
