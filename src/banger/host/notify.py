"""Telling systemd how this process is doing (sd_notify(3)): lines of ``KEY=value`` in a datagram to the socket that it named."""

from __future__ import annotations

import logging
import os
import socket

log = logging.getLogger(__name__)


def notify(*lines: str) -> bool:
    """Send these lines, such as ``READY=1``. False when nobody asked to be told; what cannot be sent is logged, for nothing else depends on it."""
    name = os.environ.get("NOTIFY_SOCKET", "")
    if not name.startswith(("/", "@")):
        return False
    address = "\0" + name[1:] if name.startswith("@") else name
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.settimeout(5.0)
            sock.sendto("\n".join(lines).encode(), address)
    except OSError as error:
        log.warning("systemd could not be told", extra={"lines": lines, "error": str(error)})
        return False
    return True
