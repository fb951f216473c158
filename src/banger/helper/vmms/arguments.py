"""Which QEMU arguments the helper passes on: those that ``vmm/qemu/command.py`` writes, and no others.

An option that is not in the table is refused, and so is a value that does not match its pattern from end to end. No pattern lets a path through but those of
descriptors that were handed over, a character or network device that is not one of them, or a machine without QEMU's own sandbox.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from ...model.errors import BadRequest

MAX_ARGUMENTS: Final = 256
MAX_ARGUMENT_CHARACTERS: Final = 4096
_FD: Final = "@fd[0-9]{1,3}@"
_NODE: Final = "[a-z][a-z0-9-]{0,30}"
_NUMBER: Final = "[1-9][0-9]{0,17}"
_RATE: Final = f'"(?:bps|iops)-total": {_NUMBER}'
_SET: Final = "[1-9][0-9]{0,2}"
_WRITABLE_FILE: Final = "read-only=off,locking=on,discard=unmap"
_WRITABLE: Final = "read-only=off,discard=unmap,detect-zeroes=unmap"
_ADDRESS: Final = r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}"
_USER_NETWORK: Final = re.compile(rf"user,id=network,ipv6=off,net={_ADDRESS}/[0-9]{{1,2}},host={_ADDRESS},dhcpstart={_ADDRESS}(?:,dns={_ADDRESS})?", re.ASCII)
"""QEMU's own user-mode network: its sockets are the host's, so it is only for those who trust themselves."""

_FLAGS: Final = frozenset({"-nodefaults", "-no-user-config", "-no-reboot"})
_VALUES: Final[dict[str, str]] = {
    "-M": "microvm,acpi=on,rtc=on",
    "-accel": "kvm|tcg,thread=(?:multi|single)",
    "-cpu": r"[A-Za-z0-9][A-Za-z0-9_.-]{0,40}(?:,[+-]?[a-z0-9][a-z0-9_.-]{0,40}(?:=on|=off)?){0,32}",
    "-smp": "[1-9][0-9]{0,2}",
    "-m": "[1-9][0-9]{0,7}M",
    "-display": "none",
    "-sandbox": "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
    "-name": "banger-[0-9a-f]{32}",
    "-kernel": f"/proc/self/fd/{_FD}",
    "-initrd": f"/proc/self/fd/{_FD}",
    "-append": r"[\x20-\x3f\x41-\x7e]{0,2048}",
    "-add-fd": f"fd={_FD},set={_SET}",
    "-chardev": f"file,id=console,path=/dev/fdset/{_SET},append=on|socket,id=(?:control|agent),fd={_FD},server=on,wait=off",
    "-serial": "chardev:console",
    "-mon": "chardev=control,mode=control",
    "-object": rf'\{{"qom-type": "throttle-group", "id": "{_NODE}", "limits": \{{{_RATE}(?:, {_RATE})?\}}\}}',
    "-blockdev": (
        f"driver=file,node-name={_NODE},filename=/dev/fdset/{_SET},auto-read-only=off,(?:read-only=on,locking=off|{_WRITABLE_FILE})"
        f"|driver=raw,node-name={_NODE},file={_NODE},(?:read-only=on|{_WRITABLE})"
        f"|driver=throttle,node-name={_NODE},throttle-group={_NODE},file={_NODE},(?:read-only=on|read-only=off,discard=unmap)"
    ),
    "-netdev": f"stream,id=network,server=off,addr.type=fd,addr.str={_FD}|tap,id=network,fd={_FD}(?:,vhost=off|,vhostfd={_FD})?",
    "-device": (
        r"virtio-rng-device|virtio-serial-device|virtserialport,chardev=agent,name=org\.banger\.agent"
        f"|virtio-blk-device,drive={_NODE},serial={_NODE}(?:,werror=enospc)?"
        "|virtio-net-device,netdev=network,mac=[0-9a-f]{2}(?::[0-9a-f]{2}){5}(?:,host_mtu=[0-9]{2,5})?"
    ),
}
_PATTERNS: Final = {option: re.compile(value, re.ASCII) for option, value in _VALUES.items()}
_ONCE: Final = frozenset({*_FLAGS, "-M", "-accel", "-cpu", "-smp", "-m", "-display", "-sandbox", "-name", "-kernel", "-initrd", "-append"})
"""Each of them is there exactly once: QEMU lets a later one win, or does without."""
_REFERENCE: Final = re.compile("@fd([0-9]{1,3})@", re.ASCII)


def check_qemu_arguments(arguments: Sequence[str], descriptor_count: int, *, user_network: bool = False) -> str:
    """Refuse arguments that are not of a machine of ours; returns the VM id that they name.

    ``descriptor_count`` counts all that are handed over; the last one, the log, cannot be named. ``user_network`` allows QEMU's built-in network.
    Raises BadRequest, which quotes what was refused.
    """
    if len(arguments) > MAX_ARGUMENTS:
        raise BadRequest(f"a VMM with {len(arguments)} arguments is refused")
    seen: dict[str, int] = {}
    name = ""
    words = iter(arguments)
    for option in words:
        _check_word(option)
        seen[option] = seen.get(option, 0) + 1
        if option in _FLAGS:
            continue
        value = next(words, None)
        if value is None:
            raise BadRequest(f"a VMM's argument is refused: {option[:64]!r} without a value")
        _check_word(value)
        _check_value(option, value, user_network=user_network)
        _check_references(value, descriptor_count)
        name = value if option == "-name" else name
    for option in _ONCE:
        if seen.get(option, 0) != 1:
            raise BadRequest(f"a VMM needs its argument {option} exactly once")
    return name.removeprefix("banger-")


def substitute(arguments: Sequence[str], descriptors: Sequence[int]) -> list[str]:
    """The arguments with the numbers of the descriptors in place of ``@fdN@``; they have been checked."""
    return [_REFERENCE.sub(lambda match: str(descriptors[int(match[1])]), word) for word in arguments]


def _check_word(word: str) -> None:
    if len(word) > MAX_ARGUMENT_CHARACTERS or "\0" in word:
        raise BadRequest(f"a VMM's argument is refused: {word[:64]!r}")


def _check_value(option: str, value: str, *, user_network: bool) -> None:
    pattern = _PATTERNS.get(option)
    if pattern is None:
        raise BadRequest(f"a VMM's argument is refused: {option[:64]!r}")
    if pattern.fullmatch(value) or (user_network and option == "-netdev" and _USER_NETWORK.fullmatch(value)):
        return
    raise BadRequest(f"a VMM's argument is refused: {option} {value[:200]!r}")


def _check_references(value: str, descriptor_count: int) -> None:
    for number in _REFERENCE.findall(value):
        if int(number) >= descriptor_count - 1:
            raise BadRequest(f"a VMM's argument names descriptor {number} of {descriptor_count}")
