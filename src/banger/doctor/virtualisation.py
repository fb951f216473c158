"""What runs machines: the processor, /dev/kvm, QEMU, taps, the guest program."""

from __future__ import annotations

import errno
import fcntl
import grp
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ..guest.program import guest_program
from ..host.kvm import KVM_DEVICE
from ..host.run import find_tool
from ..host.run_sync import run_sync
from ..model.errors import CommandFailed, MissingTool
from .ground import Ground
from .outcome import Command, Fix, NewFile, Result, commands, failed, passed, skipped, warned
from .packages import missing_tools, no_tool

QEMU: Final = "qemu-system-x86_64"
_SLOW: Final = "machines run in slow software emulation"
_KVM_API: Final = 12
"""KVM_GET_API_VERSION has answered nothing else since Linux 2.6.22 (Documentation/virt/kvm/api.rst)."""
_GET_API_VERSION, _CREATE_VM = 0xAE00, 0xAE01
_UDEV_RULE: Final = Path("/etc/udev/rules.d/65-banger-kvm.rules")
_TUN: Final = "/dev/net/tun"
_MODULES: Final = Path("/etc/modules-load.d")


def processor(ground: Ground) -> Result:
    """Whether it shows hardware virtualisation."""
    flags = next((line.split() for line in ground.read("/proc/cpuinfo").splitlines() if line.startswith("flags")), [])
    if kind := {"vmx": "Intel VT-x", "svm": "AMD-V"}.get(next((flag for flag in flags if flag in ("vmx", "svm")), "")):
        return passed(kind)
    if ground.at(KVM_DEVICE).exists():
        return passed(f"neither VT-x nor AMD-V, but {KVM_DEVICE} is there: a test guest shows what it is worth (see kvm)")
    where = "nested virtualisation on the host of this virtual machine" if "hypervisor" in flags else "virtualisation in the firmware"
    return warned(f"no hardware virtualisation: {_SLOW}", f"enable {where}")


def kvm(ground: Ground) -> Result:
    """The device: there, for this user to open, and able to make a machine. Whether a guest really runs, the daemon tries."""
    device = ground.at(KVM_DEVICE)
    try:
        descriptor = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return _no_kvm(ground)
    except PermissionError:
        return _closed_kvm(ground, device.stat())
    except OSError as error:
        return warned(f"{KVM_DEVICE} does not open ({error.strerror}): {_SLOW}", f"sudo modprobe {_module(ground)}; dmesg | grep -i kvm")
    try:
        return _try_kvm(descriptor)
    finally:
        os.close(descriptor)


def _try_kvm(descriptor: int) -> Result:
    try:
        version = fcntl.ioctl(descriptor, _GET_API_VERSION, 0)
        os.close(fcntl.ioctl(descriptor, _CREATE_VM, 0))
    except OSError as error:
        if error.errno == errno.EBUSY:
            return warned(f"another hypervisor (VirtualBox, VMware) has the processor: {_SLOW}", "stop its machines")
        return warned(f"{KVM_DEVICE} makes no machine ({error.strerror}): {_SLOW}", "dmesg | grep -i kvm")
    if version != _KVM_API:
        return warned(f"{KVM_DEVICE} speaks API {version}, not {_KVM_API}: {_SLOW}", "use a newer kernel")
    return passed(f"{KVM_DEVICE} makes machines")


def _module(ground: Ground) -> str:
    return "kvm_amd" if "AuthenticAMD" in ground.read("/proc/cpuinfo") else "kvm_intel"


def _no_kvm(ground: Ground) -> Result:
    if processor(ground).status != "pass":
        return warned(f"no {KVM_DEVICE}: {_SLOW}", "enable virtualisation (see processor), then sudo modprobe kvm")
    module = _module(ground)
    return warned(f"no {KVM_DEVICE}, though the processor can: the module {module} is not loaded; {_SLOW}", load_module(ground, module))


def _closed_kvm(ground: Ground, info: os.stat_result) -> Result:
    detail = f"{ground.user} may not open {KVM_DEVICE} ({owner_and_mode(info)}): {_SLOW}"
    if info.st_gid != 0 and info.st_mode & 0o060 == 0o060:
        return warned(f"{detail}; log in again after the remedy", commands(f"usermod -aG {_group(info.st_gid)} {ground.user}"))
    rule = NewFile(_UDEV_RULE, 'KERNEL=="kvm", GROUP="kvm", MODE="0660"')
    steps = commands("groupadd --force --system kvm", f"usermod -aG kvm {ground.user}", f"chgrp kvm {KVM_DEVICE}", f"chmod 660 {KVM_DEVICE}").steps
    return warned(f"{detail}; log in again after the remedy", Fix((*steps, rule)))


def qemu(_: Ground) -> Result:
    """The program that runs machines, and that it runs."""
    try:
        binary = find_tool(QEMU)
        said = run_sync([binary, "--version"], deadline=4.0).stdout.decode(errors="replace")
    except MissingTool:
        return missing_tools([QEMU], "no machine can be run")
    except (CommandFailed, OSError) as error:
        return failed(f"{QEMU} does not run: {error}", commands("apt-get install --reinstall qemu-system-x86"))
    words = said.split()
    return passed(f"{binary} {words[words.index('version') + 1] if 'version' in words[:-1] else 'of an unknown version'}")


def disks(_: Ground) -> Result:
    """What makes, checks and grows machines' disks."""
    tools = ("mke2fs", "debugfs", "e2fsck", "resize2fs")
    absent = [tool for tool in tools if no_tool(tool)]
    return missing_tools(absent, "disks can be neither made nor grown") if absent else passed(", ".join(tools))


def program(_: Ground) -> Result:
    """What runs as the first process of every machine."""
    try:
        return passed(str(guest_program()))
    except MissingTool as error:
        return failed(error.message, error.hint)


def tun(ground: Ground) -> Result:
    """Taps; machines without a bridge need none."""
    device = ground.at(_TUN)
    try:
        info = device.stat()
    except OSError:
        if ground.plan is None:
            return skipped(f"no {_TUN}; only machines on a bridge need it")
        return failed(f"no {_TUN}: machines get no card on the bridge", load_module(ground, "tun"))
    if stat.S_IMODE(info.st_mode) & 0o006 == 0o006 or os.access(device, os.R_OK | os.W_OK):
        return _try_tun(ground, device, info)
    if ground.plan is None:
        return skipped(f"{ground.user} may not open {_TUN}; only machines on a bridge need it")
    return failed(f"{ground.user} may not open {_TUN} ({owner_and_mode(info)})", commands(f"chmod 666 {_TUN}"))


def _try_tun(ground: Ground, device: Path, info: os.stat_result) -> Result:
    """A device file alone makes no taps: the kernel's part may be missing, or a container may not use it."""
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK))
    except OSError as error:
        if ground.plan is None:
            return skipped(f"{_TUN} does not open ({error.strerror}); only machines on a bridge need it")
        return failed(f"{_TUN} does not open ({error.strerror}): machines get no card on the bridge", load_module(ground, "tun"))
    return passed(f"{_TUN} ({owner_and_mode(info)})")


def load_module(ground: Ground, module: str) -> Fix:
    """Load it now and at every boot."""
    note = _MODULES / f"banger-{module}.conf"
    return Fix((Command(("modprobe", module)), *(() if ground.at(note).exists() else (NewFile(note, module),))))


def owner_and_mode(info: os.stat_result) -> str:
    return f"uid {info.st_uid}, group {_group(info.st_gid)}, mode {stat.S_IMODE(info.st_mode):04o}"


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


CHECKS: Final[tuple[tuple[str, str, Callable[[Ground], Result]], ...]] = (
    ("virtualisation.processor", "processor", processor),
    ("virtualisation.kvm", "kvm", kvm),
    ("virtualisation.qemu", "qemu", qemu),
    ("virtualisation.disks", "disks", disks),
    ("virtualisation.guest-program", "guest program", program),
    ("virtualisation.tun", "taps", tun),
)
