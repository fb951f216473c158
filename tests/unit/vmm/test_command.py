"""The QEMU command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from banger.model.machine import Disk, MachineConfig, NetworkCard
from banger.vmm.qemu.command import Descriptors, Processor, kernel_arguments, machine_command, probe_command, translates_in_parallel

QEMU = Path("/usr/bin/qemu-system-x86_64")
TCG = Processor(accelerator="tcg", model="Westmere-v1", tsc_khz=2596124)
KERNEL_WORDS = (
    "console=ttyS0 8250.nr_uarts=1 i8042.noaux i8042.nomux i8042.nopnp i8042.dumbkbd no_timer_check cryptomgr.notests "
    "mitigations=off random.trust_cpu=1 reboot=t panic=-1 quiet tsc_early_khz=2596124 tsc=reliable"
)
SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"


def config(card: NetworkCard | None = None) -> MachineConfig:
    return MachineConfig(
        vm_id="0123abcd",
        vm_dir=Path("/vms/0123abcd"),
        vcpu_count=2,
        memory_mib=512,
        kernel=Path("/k/vmlinux"),
        initramfs=Path("/c/initramfs"),
        disks=(Disk(serial="base", path=Path("/i/rootfs.ext4"), read_only=True), Disk(serial="overlay", path=Path("/v/overlay"), read_only=False)),
        card=card,
        uid=-1,
    )


def card(socket: Path | None) -> NetworkCard:
    return NetworkCard(mac="52:54:00:aa:bb:cc", address="10.0.2.15", prefix=24, gateway="10.0.2.2", nameservers=("10.0.2.3",), socket=socket)


def descriptors(network: int | None = None) -> Descriptors:
    return Descriptors(kernel=10, initramfs=11, disks=(12, 13), console=14, agent=15, control=16, network=network)


def test_the_whole_command_line_of_a_machine_without_network() -> None:
    assert machine_command(QEMU, config(), TCG, descriptors()) == [
        "/usr/bin/qemu-system-x86_64",
        *("-M", "microvm,acpi=on,rtc=on", "-accel", "tcg,thread=multi", "-cpu", "Westmere-v1", "-smp", "2", "-m", "512M"),
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-sandbox", SANDBOX),
        *("-name", "banger-0123abcd"),
        *("-kernel", "/proc/self/fd/10", "-initrd", "/proc/self/fd/11", "-append", KERNEL_WORDS),
        *("-add-fd", "fd=14,set=1", "-chardev", "file,id=console,path=/dev/fdset/1,append=on", "-serial", "chardev:console"),
        *("-chardev", "socket,id=control,fd=16,server=on,wait=off", "-mon", "chardev=control,mode=control"),
        *("-chardev", "socket,id=agent,fd=15,server=on,wait=off"),
        *("-device", "virtio-serial-device", "-device", "virtserialport,chardev=agent,name=org.banger.agent"),
        *("-device", "virtio-rng-device"),
        *("-add-fd", "fd=12,set=2"),
        *("-blockdev", "driver=file,node-name=base-file,filename=/dev/fdset/2,auto-read-only=off,read-only=on,locking=off"),
        *("-blockdev", "driver=raw,node-name=base,file=base-file,read-only=on"),
        *("-device", "virtio-blk-device,drive=base,serial=base"),
        *("-add-fd", "fd=13,set=3"),
        *("-blockdev", "driver=file,node-name=overlay-file,filename=/dev/fdset/3,auto-read-only=off,read-only=off,locking=on,discard=unmap"),
        *("-blockdev", "driver=raw,node-name=overlay,file=overlay-file,read-only=off,discard=unmap,detect-zeroes=unmap"),
        *("-device", "virtio-blk-device,drive=overlay,serial=overlay,werror=enospc"),
    ]


def test_a_card_behind_passt_gets_the_connected_socket() -> None:
    words = machine_command(QEMU, config(card(Path("/v/network.sock"))), TCG, descriptors(network=17))
    assert words[-4:] == [
        *("-netdev", "stream,id=network,server=off,addr.type=fd,addr.str=17"),
        *("-device", "virtio-net-device,netdev=network,mac=52:54:00:aa:bb:cc,host_mtu=65520"),
    ]


def test_a_card_without_passt_uses_the_built_in_network_with_the_same_addresses() -> None:
    words = machine_command(QEMU, config(card(None)), TCG, descriptors())
    assert words[-4:] == [
        *("-netdev", "user,id=network,ipv6=off,net=10.0.2.2/24,host=10.0.2.2,dhcpstart=10.0.2.15,dns=10.0.2.3"),
        *("-device", "virtio-net-device,netdev=network,mac=52:54:00:aa:bb:cc"),
    ]


def test_nothing_that_identifies_the_guest_is_on_the_command_line_but_its_id() -> None:
    words = " ".join(machine_command(QEMU, config(), TCG, descriptors()))
    assert "/vms/" not in words
    assert "/i/rootfs" not in words
    assert words.count("0123abcd") == 1


def test_descriptors_that_do_not_match_the_disks_are_a_bug() -> None:
    with pytest.raises(ValueError, match="shorter"):
        machine_command(QEMU, config(), TCG, Descriptors(kernel=1, initramfs=2, disks=(3,), console=4, agent=5, control=6, network=None))


def test_an_unknown_tsc_frequency_leaves_its_arguments_out() -> None:
    assert "tsc" not in kernel_arguments(None)
    assert kernel_arguments(1000).endswith("quiet tsc_early_khz=1000 tsc=reliable")


@pytest.mark.parametrize(("accelerator", "parallel", "words"), [("tcg", True, "tcg,thread=multi"), ("tcg", False, "tcg,thread=single"), ("kvm", False, "kvm")])
def test_emulated_cpus_take_turns_where_qemu_would_lose_rewritten_code(accelerator: str, parallel: bool, words: str) -> None:
    processor = Processor(accelerator=accelerator, model="max", tsc_khz=None, parallel=parallel)
    command = machine_command(QEMU, config(), processor, descriptors())
    assert command[command.index("-accel") + 1] == words


@pytest.mark.parametrize(("version", "safe"), [("7.2.22", False), ("8.0.5", False), ("8.1.0", True), ("8.2.2", True), ("10.0.2", True), ("", False)])
def test_which_qemu_translates_in_parallel(version: str, safe: bool) -> None:
    assert translates_in_parallel(version) is safe


def test_the_probe_runs_under_kvm_and_says_so_on_its_output() -> None:
    words = probe_command(QEMU, Processor(accelerator="kvm", model="host", tsc_khz=None), kernel=4, initramfs=5)
    assert words[words.index("-accel") + 1] == "kvm"
    assert words[words.index("-cpu") + 1] == "host"
    assert words[words.index("-append") + 1].split()[-1] == "banger.probe"
    assert words[-4:] == ["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"]
