"""Sockets of this host that listen for forwarded connections."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Final

from ..model.errors import AlreadyExists, BadRequest, BangerError
from ..model.forwards import Forward

_BACKLOG: Final = 512


def listen(forward: Forward) -> socket.socket:
    """A socket that listens at the forward's endpoint. Raises AlreadyExists when the port is taken, BadRequest when the address is not ours to bind."""
    family = socket.AF_INET6 if ":" in forward.bind else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((forward.bind, forward.host_port))
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        raise _explain(forward, error) from error
    except BaseException:
        sock.close()
        raise
    return sock


def check_free(forwards: Sequence[Forward]) -> None:
    """Listen at all these endpoints for a moment; raises as ``listen`` does."""
    with ExitStack() as stack:
        for forward in forwards:
            stack.enter_context(listen(forward))


def port_of(sock: socket.socket) -> int:
    """The port that the socket has got."""
    port: int = sock.getsockname()[1]
    return port


def _explain(forward: Forward, error: OSError) -> BangerError:
    where = forward.endpoint
    if error.errno == errno.EADDRINUSE:
        return AlreadyExists(f"port {where} of this host is taken", hint="choose another port, or find its owner: ss -ltnp (another machine may publish it)")
    if error.errno == errno.EADDRNOTAVAIL:
        return BadRequest(f"{forward.bind} is no address of this host", hint="`ip address` shows the addresses that it has")
    if error.errno in (errno.EACCES, errno.EPERM):
        return BadRequest(f"port {where} may not be used by uid {os.geteuid()}", hint="use a port from 1024 up, or lower net.ipv4.ip_unprivileged_port_start")
    return BangerError(f"cannot listen at {where}: {error.strerror}")
