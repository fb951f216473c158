"""Arguments of QEMU that the helper passes on, and those that it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as some

from banger.helper.vmms.arguments import check_qemu_arguments, substitute
from banger.model.errors import BadRequest
from banger.model.machine import Disk, MachineConfig, NetworkCard
from banger.vmm.qemu.command import Descriptors, Processor, machine_command

VM_ID = "0123456789abcdef0123456789abcdef"
COUNT = 10


def arguments(*, card: NetworkCard | None = None, accelerator: str = "tcg") -> list[str]:
    config = MachineConfig(
        vm_id=VM_ID,
        vm_dir=Path("/vms/x"),
        vcpu_count=2,
        memory_mib=512,
        kernel=Path("/k/vmlinux"),
        initramfs=Path("/c/initramfs"),
        disks=(Disk(serial="base", path=Path("/i/rootfs.ext4"), read_only=True), Disk(serial="overlay", path=Path("/v/overlay"), read_only=False)),
        card=card,
        uid=-1,
    )
    fds = Descriptors(
        kernel="@fd0@", initramfs="@fd1@", disks=("@fd2@", "@fd3@"), console="@fd4@", agent="@fd5@", control="@fd6@", network="@fd7@" if card else None
    )
    return machine_command(Path("/usr/bin/qemu"), config, Processor(accelerator=accelerator, model="host", tsc_khz=2000000), fds)[1:]


def card() -> NetworkCard:
    return NetworkCard(mac="52:54:00:aa:bb:cc", address="10.0.2.15", prefix=24, gateway="10.0.2.2", nameservers=("10.0.2.3",), socket=Path("/n"))


def replaced(option: str, value: str) -> list[str]:
    words = arguments(card=card())
    words[words.index(option) + 1] = value
    return words


@pytest.mark.parametrize("words", [arguments(), arguments(card=card()), arguments(accelerator="kvm")], ids=["plain", "card", "kvm"])
def test_what_the_driver_writes_passes(words: list[str]) -> None:
    assert check_qemu_arguments(words, COUNT) == VM_ID


def test_descriptors_take_the_places_of_their_words() -> None:
    assert substitute(["-initrd", "/proc/self/fd/@fd1@", "fd=@fd0@,set=2"], [17, 4]) == ["-initrd", "/proc/self/fd/4", "fd=17,set=2"]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("-kernel", "/etc/shadow"),
        ("-kernel", "/proc/self/fd/../../1/root/etc/shadow"),
        ("-kernel", "/proc/self/fd/3"),
        ("-kernel", "/proc/self/fd/@fd0@\n"),
        ("-kernel", "/proc/self/fd/@fd9@"),
        ("-kernel", "/proc/self/fd/@fd٣@"),
        ("-initrd", "/proc/self/fd/@fd0@,/etc/shadow"),
        ("-sandbox", "off"),
        ("-sandbox", "on"),
        ("-display", "vnc=:0"),
        ("-name", "banger-" + "x" * 32),
        ("-name", f"banger-{VM_ID},debug-threads=on"),
        ("-M", "microvm,acpi=on,rtc=on,dumpdtb=/tmp/x"),
        ("-accel", "kvm,device=/dev/other"),
        ("-serial", "file:/etc/passwd"),
        ("-mon", "chardev=agent,mode=readline"),
        ("-chardev", "file,id=console,path=/etc/passwd,append=on"),
        ("-chardev", "socket,id=control,path=/run/x,server=on,wait=off"),
        ("-netdev", "tap,id=network,ifname=eth0,script=/tmp/x"),
        ("-netdev", "user,id=network,ipv6=off,net=10.0.2.0/24,host=10.0.2.2,dhcpstart=10.0.2.15"),
        ("-netdev", "stream,id=network,server=off,addr.type=unix,addr.path=/run/x"),
        ("-add-fd", "fd=0,set=1"),
        ("-blockdev", "driver=file,node-name=base-file,filename=/dev/sda,auto-read-only=off,read-only=on,locking=off"),
        ("-blockdev", "driver=nbd,node-name=base-file,server.type=inet,server.host=x,server.port=1"),
        ("-device", "virtio-9p-device,fsdev=x,mount_tag=x"),
        ("-cpu", "host,model-id=/etc/shadow"),
        ("-m", "1024G"),
    ],
)
def test_what_names_anything_else_is_refused(option: str, value: str) -> None:
    with pytest.raises(BadRequest):
        check_qemu_arguments(replaced(option, value), COUNT)


@pytest.mark.parametrize(
    "extra", [["-S"], ["-daemonize"], ["-runas", "root"], ["-pidfile", "/tmp/x"], ["-drive", "file=/dev/sda"], ["-qmp", "unix:/x"], ["-append"]]
)
def test_other_options_are_refused(extra: list[str]) -> None:
    with pytest.raises(BadRequest):
        check_qemu_arguments([*arguments(), *extra], COUNT)


@pytest.mark.parametrize("option", ["-sandbox", "-name", "-nodefaults", "-no-user-config", "-M", "-kernel"])
def test_what_is_needed_is_there_exactly_once(option: str) -> None:
    words = arguments()
    at = words.index(option)
    size = 1 if option in ("-nodefaults", "-no-user-config") else 2
    with pytest.raises(BadRequest, match="exactly once"):
        check_qemu_arguments([*words[:at], *words[at + size :]], COUNT)
    with pytest.raises(BadRequest, match="exactly once"):
        check_qemu_arguments([*words, *words[at : at + size]], COUNT)


def test_the_log_is_no_file_of_the_guest() -> None:
    with pytest.raises(BadRequest, match="names descriptor 7 of 8"):
        check_qemu_arguments(arguments(card=card()), 8)


def test_the_built_in_network_is_for_those_who_trust_themselves() -> None:
    words = replaced("-netdev", "user,id=network,ipv6=off,net=10.0.2.2/24,host=10.0.2.2,dhcpstart=10.0.2.15,dns=10.0.2.3")
    assert check_qemu_arguments(words, COUNT, user_network=True) == VM_ID
    with pytest.raises(BadRequest):
        check_qemu_arguments(words, COUNT)


FOREIGN = some.sampled_from(
    ["/etc/shadow", "/dev/sda", "/proc/1/root", "../x", "unix:", "script=", "exec:", "file:", "path=", "/dev/fd/3", "/proc/self/fd/1", "|", "tcp:"]
)


@given(place=some.integers(0, 200), foreign=FOREIGN, before=some.text(max_size=8), after=some.text(max_size=8))
def test_no_word_with_a_foreign_path_or_option_passes(place: int, foreign: str, before: str, after: str) -> None:
    """Whatever word it takes the place of; but the guest's own command line, which QEMU does not read, may say anything."""
    words = arguments(card=card())
    at = place % len(words)
    assume(words[at - 1] != "-append")
    words[at] = before + foreign + after
    with pytest.raises(BadRequest):
        check_qemu_arguments(words, COUNT)


@given(place=some.integers(0, 200), start=some.integers(0, 200), insert=some.text(min_size=1, max_size=6))
def test_a_word_with_something_put_into_it_passes_only_if_it_still_has_a_known_shape(place: int, start: int, insert: str) -> None:
    words = arguments(card=card())
    at = place % len(words)
    assume(words[at - 1] != "-append")
    word = words[at]
    words[at] = word[: start % (len(word) + 1)] + insert + word[start % (len(word) + 1) :]
    try:
        check_qemu_arguments(words, COUNT)
    except BadRequest:
        return
    changed = words[at]
    assert changed.isascii() and "/" not in insert and "\n" not in changed
    assert words[at - 1] in ("-cpu", "-m", "-smp", "-name", "-chardev", "-add-fd", "-blockdev", "-device", "-netdev", "-kernel", "-initrd")


@given(some.lists(some.text(max_size=40), max_size=30))
def test_nothing_that_is_made_up_passes(words: list[str]) -> None:
    with pytest.raises(BadRequest):
        check_qemu_arguments(words, COUNT)
