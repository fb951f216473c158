"""What this host can do and what is missing, each with what to do about it."""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

from ..api.types import Check
from ..guest.program import guest_program
from ..host import facts
from ..host.paths import Layout, check_private
from ..host.run import PACKAGES, find_tool
from ..image import namespace
from ..image.service import Bootable, ImageService
from ..model.errors import BangerError, MissingTool
from ..model.limits import DEFAULT_IMAGE, FLOOR_MEMORY_MIB, SizeDefaults
from ..model.progress import silent
from ..model.sizes import GIB, MIB, format_size
from ..vm.capabilities import Finding
from ..vmm.protocol import Inspects, Vmm, VmmProbe

IMAGE_TOOLS: Final = ("mmdebstrap", "apt-get", "dpkg-deb", "depmod", "lz4", "unshare", "setpriv")
"""What building the default image and kernel takes."""
Trouble = Literal["warn", "fail"]

_SPACE_NEEDED: Final = 1 * GIB
_SPACE_WANTED: Final = 6 * GIB


async def run_checks(layout: Layout, vmm: Vmm, images: ImageService, sizes: SizeDefaults, findings: Sequence[Finding]) -> tuple[Check, ...]:
    """Every check, the essential ones first. Runs at most one tiny guest, and none when there is no image yet; changes nothing else.

    ``findings`` are those of the capabilities.
    """
    has_image = any(image.name == sizes.image for image in images.list())
    namespaces = await _namespaces(has_image)
    bootable, image = await _default_image(images, sizes.image) if has_image else (None, await _image_to_be_built(images, sizes.image))
    return (
        _architecture(),
        *await _vmm(vmm, bootable, sizes.image),
        _guest_program(),
        *(Check(name=one.name, status=one.status, detail=one.detail, remedy=one.remedy) for one in findings),
        _image_building(namespaces, missing="warn" if has_image else "fail"),
        namespaces,
        image,
        _passt(),
        await asyncio.to_thread(_disk_space, layout),
        _memory(),
        _machine_size(sizes),
        _runtime_directory(layout),
    )


def _architecture() -> Check:
    machine = platform.machine()
    if machine == "x86_64":
        return Check(name="architecture", status="pass", detail=machine)
    return Check(name="architecture", status="fail", detail=f"{machine}: kernels and the guest program are made for x86_64", remedy="use an x86-64 host")


async def _vmm(vmm: Vmm, bootable: Bootable | None, image: str) -> tuple[Check, ...]:
    probe = await _probe(vmm, bootable)
    if probe is None:
        return (Check(name=vmm.name, status="warn", detail="not known before there is an image", remedy=f"banger image pull {image}"),)
    if not probe.usable:
        return (Check(name=vmm.name, status="fail", detail=probe.note, remedy=probe.hint),)
    program = Check(name=vmm.name, status="pass", detail=f"{probe.binary} {probe.version}".strip())
    return program, _acceleration(probe, image)


async def _probe(vmm: Vmm, bootable: Bootable | None) -> VmmProbe | None:
    """Inspected first: what a guest showed is remembered, and the program may have broken since."""
    inspected = await vmm.inspect() if isinstance(vmm, Inspects) else None
    if bootable is None or (inspected is not None and not inspected.usable):
        return inspected
    return await vmm.probe(bootable.kernel_file, bootable.initramfs)


def _acceleration(probe: VmmProbe, image: str) -> Check:
    if probe.accelerator == "kvm":
        return Check(name="kvm", status="pass", detail="a test guest runs")
    if probe.accelerator == "":
        return Check(name="kvm", status="warn", detail="the device is there; not tried before there is an image", remedy=f"banger image pull {image}")
    return Check(name="kvm", status="warn", detail=probe.note, remedy=probe.hint)


def _guest_program() -> Check:
    try:
        return Check(name="guest program", status="pass", detail=str(guest_program()))
    except MissingTool as error:
        return _failed("guest program", error)


def _image_building(namespaces: Check, *, missing: Trouble) -> Check:
    """The tools, and the namespaces that they work in."""
    name = "image building"
    absent = [tool for tool in IMAGE_TOOLS if not _installed(tool)]
    if absent:
        packages = dict.fromkeys(PACKAGES.get(tool, tool) for tool in absent)
        return Check(name=name, status=missing, detail=f"not installed: {', '.join(absent)}", remedy=f"sudo apt-get install {' '.join(packages)}")
    if namespaces.status != "pass":
        return Check(name=name, status=namespaces.status, detail="the tools are there, but namespaces do not work (see there)", remedy=namespaces.remedy)
    return Check(name=name, status="pass", detail=", ".join(IMAGE_TOOLS))


def _installed(tool: str) -> bool:
    try:
        find_tool(tool)
    except MissingTool:
        return False
    return True


async def _namespaces(has_image: bool) -> Check:
    name = "namespaces"
    try:
        await namespace.check()
    except BangerError as error:
        return _failed(name, error, status="warn" if has_image else "fail")
    return Check(name=name, status="pass", detail="root" if os.geteuid() == 0 else "user namespaces with subordinate ids work")


async def _default_image(images: ImageService, name: str) -> tuple[Bootable | None, Check]:
    kernels = {kernel.name for kernel in images.kernels.list()}
    record = await images.show(name)
    remedy = f"banger image pull {name}"
    if record.kernel_name not in kernels:
        return None, Check(name="default image", status="warn", detail=f"{name} has lost its kernel {record.kernel_name}", remedy=remedy)
    try:
        bootable = await images.ensure(name, silent)
    except BangerError as error:
        return None, _failed("default image", error)
    return bootable, Check(name="default image", status="pass", detail=f"{name} ({format_size(record.size_bytes)}), kernel {bootable.kernel.version}")


async def _image_to_be_built(images: ImageService, name: str) -> Check:
    try:
        known = any(entry.name == name for entry in await images.catalog())
    except BangerError as error:  # a mistake in a catalog of the user's
        return _failed("default image", error)
    if known:
        return Check(name="default image", status="pass", detail=f"{name} is built on first use", remedy=f"banger image pull {name}")
    remedy = "install banger again" if name == DEFAULT_IMAGE else "change default_image_name in config.toml (banger config show); banger image list --available"
    return Check(name="default image", status="fail", detail=f"{name} is neither here nor in the catalog", remedy=remedy)


def _passt() -> Check:
    try:
        return Check(name="passt", status="pass", detail=str(find_tool("passt")))
    except MissingTool as error:
        return Check(name="passt", status="warn", detail="not installed: with --nat a guest could reach services on this host's 127.0.0.1", remedy=error.hint)


def _disk_space(layout: Layout) -> Check:
    where = next(path for path in (layout.state, *layout.state.parents) if path.exists())
    free = shutil.disk_usage(where).free
    detail = f"{format_size(free)} free in {layout.state}"
    if free >= _SPACE_WANTED:
        return Check(name="disk space", status="pass", detail=detail)
    remedy = "free some space there, or set BANGER_HOME to a larger file system"
    return Check(name="disk space", status="warn" if free >= _SPACE_NEEDED else "fail", detail=detail, remedy=remedy)


def _memory() -> Check:
    available = _available_memory()
    detail = f"{format_size(available)} of {format_size(facts.memory_bytes())} available"
    if available >= FLOOR_MEMORY_MIB * MIB:
        return Check(name="memory", status="pass", detail=detail)
    return Check(name="memory", status="warn", detail=detail, remedy=f"machines take {FLOOR_MEMORY_MIB} MiB unless told otherwise: use --memory, or stop some")


def _machine_size(sizes: SizeDefaults) -> Check:
    """What a machine gets that is not told otherwise, and why."""
    values = {
        "vcpu_count": f"{sizes.vcpu_count} vcpu",
        "memory_mib": f"{sizes.memory_mib} MiB",
        "work_disk_bytes": f"{format_size(sizes.work_disk_bytes)} disk",
        "system_overlay_bytes": f"{format_size(sizes.system_overlay_bytes)} system overlay",
    }
    return Check(name="machine size", status="pass", detail=", ".join(f"{text} ({sizes.provenance[field]})" for field, text in values.items()))


def _available_memory() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return facts.memory_bytes()


def _runtime_directory(layout: Layout) -> Check:
    try:
        check_private(layout.runtime)
    except FileNotFoundError:
        return Check(name="runtime directory", status="pass", detail=f"{layout.runtime} will be made")
    except BangerError as error:
        return _failed("runtime directory", error)
    return Check(name="runtime directory", status="pass", detail=f"{layout.runtime} is private")


def _failed(name: str, error: BangerError, *, status: Trouble = "fail") -> Check:
    return Check(name=name, status=status, detail=error.message, remedy=error.hint)
