"""TAP devices by ioctl (include/uapi/linux/if_tun.h): made to last, and opened by whoever drives a machine's card."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from ..model.errors import BangerError, CommandFailed, MissingTool, NotFound

DEVICE: Final = "/dev/net/tun"
_TUNSETIFF, _TUNSETPERSIST, _TUNSETOWNER = 0x400454CA, 0x400454CB, 0x400454CC
_TAP, _NO_PI, _VNET_HDR = 0x0002, 0x1000, 0x4000
_REQUEST: Final = struct.Struct("16sH22x")
_ABSENT: Final = "/dev/net/tun is missing on this host"
_REMEDY: Final = "sudo modprobe tun; in a container, hand /dev/net/tun to it"


def open_tap(name: str) -> int:
    """A descriptor of an existing tap for its frames, each behind a virtio-net header; the caller closes it. Its owner may do so without privileges.

    Raises NotFound when there is no such link, MissingTool without /dev/net/tun, CommandFailed when it is another's or already open.
    """
    try:
        socket.if_nametoindex(name)  # TUNSETIFF would make what is not there
    except OSError:
        raise NotFound(f"there is no tap {name}", hint="banger doctor --fix") from None
    descriptor = open_device()
    try:
        claim(descriptor, name)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def make_tap(name: str, owner: int) -> None:
    """Make a tap that stays, or give an existing one that nobody has open to this uid. Raises as ``open_tap`` does."""
    with _device() as descriptor:
        claim(descriptor, name)
        fcntl.ioctl(descriptor, _TUNSETPERSIST, 1)
        fcntl.ioctl(descriptor, _TUNSETOWNER, owner)


def open_device() -> int:
    """The device of which taps are made. Raises MissingTool when the host has none, CommandFailed when it may not be opened."""
    try:
        return os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.ENODEV, errno.ENXIO}:
            raise MissingTool(_ABSENT, hint=_REMEDY) from error
        raise CommandFailed(f"{DEVICE} cannot be opened: {error.strerror}", hint=f"sudo chmod 666 {DEVICE}") from error


def claim(descriptor: int, name: str) -> None:
    """Bind an open device to the tap. Raises CommandFailed."""
    try:
        fcntl.ioctl(descriptor, _TUNSETIFF, _REQUEST.pack(name.encode(), _TAP | _NO_PI | _VNET_HDR))
    except OSError as error:
        raise _refusal(name, error) from error


def _refusal(name: str, error: OSError) -> BangerError:
    if error.errno == errno.EBUSY:
        return CommandFailed(f"the tap {name} is in use by another process")
    if error.errno == errno.EINVAL:
        return CommandFailed(f"{name} exists and is no tap")
    return CommandFailed(f"the tap {name} cannot be used: {error.strerror}")


@contextmanager
def _device() -> Iterator[int]:
    descriptor = open_device()
    try:
        yield descriptor
    finally:
        os.close(descriptor)
