"""The QEMU command line of a machine: pure, from a MachineConfig and the numbers of the descriptors that QEMU inherits.

Every file reaches QEMU as a descriptor, so its process needs no permission on any path. What the arguments are for was measured
with QEMU 7.2; no option here is newer than that.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ...model.machine import Disk, Limits, MachineConfig, NetworkCard

FASTEST_TCG_CPU: Final = "Westmere-v1"
"""x86-64-v2. Boots a quarter faster under TCG than ``max``; v1 has no feature that TCG lacks and would warn about."""
AGENT_PORT: Final = "org.banger.agent"
PROBE_WORD: Final = "banger.probe"
NETWORK: Final = "network"
"""Name of the card's other end in QEMU."""
_SANDBOX: Final = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
# ACPI is how Debian's kernel finds virtio-mmio devices (VIRTIO_MMIO_CMDLINE_DEVICES is off there).
_MACHINE: Final = "microvm,acpi=on,rtc=on"
_LARGEST_MTU: Final = 65520
"""What passt takes (passt(1), --mtu); fewer, larger frames are several times faster."""
_LIMITED: Final = "-limited"
_PARALLEL_SINCE: Final = (8, 1)
_CONSOLE_SET: Final = 1
_FIRST_DISK_SET: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Processor:
    """What executes the guest's instructions."""

    accelerator: str
    """``kvm`` or ``tcg``."""
    model: str
    """QEMU's name of the CPU."""
    tsc_khz: int | None
    """The host's time stamp counter frequency; None when unknown."""
    parallel: bool = True
    """Emulated CPUs run on host threads of their own, else in turns on one. What KVM runs is parallel anyway."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptors:
    """How the descriptors that QEMU inherits are named in its arguments: their numbers, or words that stand for them until it is started."""

    kernel: int | str
    initramfs: int | str
    disks: tuple[int | str, ...]
    """In the order of the config's disks; opened read-only exactly where the disk is."""
    console: int | str
    """Write-only, O_APPEND."""
    agent: int | str
    """Listening unix socket."""
    control: int | str
    """Listening unix socket for QMP."""
    network: int | str | None
    """The card's tap, or the connected stream socket of the network helper; None without a card or with the built-in network."""


def machine_name(vm_id: str) -> str:
    """The argument by which a machine's process is recognised in the process list."""
    return f"banger-{vm_id}"


def machine_command(binary: Path, config: MachineConfig, processor: Processor, fds: Descriptors) -> list[str]:
    """The argument vector that runs the machine."""
    return [
        *_common(binary, processor, config.vcpu_count, config.memory_mib),
        *("-name", machine_name(config.vm_id)),
        *_boot(fds.kernel, fds.initramfs, kernel_arguments(processor.tsc_khz)),
        *_console(fds.console),
        *_channels(fds.agent, fds.control),
        *("-device", "virtio-rng-device"),
        *(
            word
            for number, (disk, fd) in enumerate(zip(config.disks, fds.disks, strict=True))
            for word in _disk(disk, fd, _FIRST_DISK_SET + number, config.limits)
        ),
        *(_network(config.card, fds.network) if config.card else ()),
    ]


def probe_command(binary: Path, processor: Processor, kernel: int, initramfs: int) -> list[str]:
    """The argument vector of a tiny guest that says ``banger-probe-ok`` on stdout and reboots, which ends QEMU."""
    return [
        *_common(binary, processor, 1, 256),
        *_boot(kernel, initramfs, f"{kernel_arguments(processor.tsc_khz)} {PROBE_WORD}"),
        *("-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"),
    ]


def translates_in_parallel(version: str) -> bool:
    """Whether a QEMU of this version such as ``7.2.22`` can emulate several CPUs at once without losing code that one of them rewrites.

    Before 8.1 a CPU that translates a page while another writes to it may keep the old code (mended by QEMU's deba78709a, "Always lock pages before
    translation"). Linux patches its own code all the time, by way of a breakpoint; a CPU that keeps the breakpoint takes it for ever. Measured with 7.2:
    one boot of about 250 hung on a busy host, and running guests within seconds of switching kernel.sched_schedstats to and fro.
    """
    match = re.match(r"([0-9]+)\.([0-9]+)", version)
    return match is not None and (int(match[1]), int(match[2])) >= _PARALLEL_SINCE


def kernel_arguments(tsc_khz: int | None) -> str:
    """The kernel's command line: lean, and without what can hang an emulated boot.

    Without ``tsc_early_khz`` the kernel measures the TSC against an emulated timer, which scheduling jitter can defeat for ever.
    """
    words = [
        *("console=ttyS0", "8250.nr_uarts=1", "i8042.noaux", "i8042.nomux", "i8042.nopnp", "i8042.dumbkbd"),
        *("no_timer_check", "cryptomgr.notests", "mitigations=off", "random.trust_cpu=1", "reboot=t", "panic=-1", "quiet"),
    ]
    return " ".join(words + ([f"tsc_early_khz={tsc_khz}", "tsc=reliable"] if tsc_khz else []))


def _common(binary: Path, processor: Processor, vcpu_count: int, memory_mib: int) -> list[str]:
    threads = "multi" if processor.parallel else "single"
    accelerator = f"tcg,thread={threads}" if processor.accelerator == "tcg" else processor.accelerator
    return [
        str(binary),
        *("-M", _MACHINE, "-accel", accelerator, "-cpu", processor.model, "-smp", str(vcpu_count), "-m", f"{memory_mib}M"),
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-sandbox", _SANDBOX),
    ]


def _boot(kernel: int | str, initramfs: int | str, arguments: str) -> list[str]:
    # These two are opened by path; the magic link opens the file itself, whatever the directories above it allow.
    return ["-kernel", f"/proc/self/fd/{kernel}", "-initrd", f"/proc/self/fd/{initramfs}", "-append", arguments]


def _console(fd: int | str) -> list[str]:
    return ["-add-fd", f"fd={fd},set={_CONSOLE_SET}", "-chardev", f"file,id=console,path=/dev/fdset/{_CONSOLE_SET},append=on", "-serial", "chardev:console"]


def _channels(agent: int | str, control: int | str) -> list[str]:
    return [
        *("-chardev", f"socket,id=control,fd={control},server=on,wait=off", "-mon", "chardev=control,mode=control"),
        *("-chardev", f"socket,id=agent,fd={agent},server=on,wait=off"),
        *("-device", "virtio-serial-device", "-device", f"virtserialport,chardev=agent,name={AGENT_PORT}"),
    ]


def _disk(disk: Disk, fd: int | str, number: int, limits: Limits) -> list[str]:
    # Writable disks are locked, so that no second QEMU can ever open them; the base is shared. Zeros that the guest writes or
    # trims become holes in the sparse file.
    protocol = f"driver=file,node-name={disk.serial}-file,filename=/dev/fdset/{number},auto-read-only=off"
    # A write for which the host has no room pauses the guest until there is some; it would take an error for a broken disk.
    error = "" if disk.read_only else ",werror=enospc"
    access = "read-only=on,locking=off" if disk.read_only else "read-only=off,locking=on,discard=unmap"
    form = "read-only=on" if disk.read_only else "read-only=off,discard=unmap,detect-zeroes=unmap"
    return [
        *("-add-fd", f"fd={fd},set={number}"),
        *("-blockdev", f"{protocol},{access}"),
        *("-blockdev", f"driver=raw,node-name={disk.serial},file={disk.serial}-file,{form}"),
        *(_throttle(disk.serial, form, limits)),
        *("-device", f"virtio-blk-device,drive={disk.serial}{_LIMITED if _limited(limits) else ''},serial={disk.serial}{error}"),
    ]


def _limited(limits: Limits) -> bool:
    return bool(limits.disk_bytes_per_second or limits.disk_operations_per_second)


def _throttle(serial: str, form: str, limits: Limits) -> list[str]:
    """A filter above the disk that lets only so much pass, in both directions together."""
    if not _limited(limits):
        return []
    rates = (("bps", limits.disk_bytes_per_second), ("iops", limits.disk_operations_per_second))
    group = {"qom-type": "throttle-group", "id": f"{serial}-limits", "limits": {f"{kind}-total": rate for kind, rate in rates if rate}}
    filtered = form.removesuffix(",detect-zeroes=unmap")
    return [
        *("-object", json.dumps(group)),
        *("-blockdev", f"driver=throttle,node-name={serial}{_LIMITED},throttle-group={serial}-limits,file={serial},{filtered}"),
    ]


def _network(card: NetworkCard, fd: int | str | None) -> list[str]:
    device = f"virtio-net-device,netdev={NETWORK},mac={card.mac}"
    if card.tap:
        return ["-netdev", f"tap,id={NETWORK},fd={fd},vhost=off", "-device", device]
    if fd is not None:
        return ["-netdev", f"stream,id={NETWORK},server=off,addr.type=fd,addr.str={fd}", "-device", f"{device},host_mtu={_LARGEST_MTU}"]
    nameserver = f",dns={card.nameservers[0]}" if card.nameservers else ""
    user = f"user,id={NETWORK},ipv6=off,net={card.gateway}/{card.prefix},host={card.gateway},dhcpstart={card.address}{nameserver}"
    return ["-netdev", user, "-device", device]
