"""What a service says to systemd and gets from it: listening sockets (sd_listen_fds(3)) and readiness (sd_notify(3))."""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping
from typing import Final

from ..model.errors import BadRequest

_FIRST_FD: Final = 3


def take_sockets(environment: MutableMapping[str, str] | None = None) -> list[socket.socket]:
    """The sockets that were passed to this very process; empty when none were. The variables are removed, so that no child believes them."""
    env = os.environ if environment is None else environment
    pid, number = env.pop("LISTEN_PID", ""), env.pop("LISTEN_FDS", "")
    env.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()):
        return []
    if not number.isdecimal():
        raise BadRequest(f"LISTEN_FDS is {number!r}", hint="systemd sets it; see sd_listen_fds(3)")
    passed = [socket.socket(fileno=_FIRST_FD + index) for index in range(int(number))]
    for one in passed:
        one.set_inheritable(False)
    return passed


def notify(state: str, environment: MutableMapping[str, str] | None = None) -> bool:
    """Tell systemd, for example ``READY=1``. False when nobody wants to know."""
    address = (os.environ if environment is None else environment).get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.connect(address.replace("@", "\0", 1) if address.startswith("@") else address)
        sock.sendall(state.encode())
    return True
