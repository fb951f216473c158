"""A port of one address for both UDP and TCP, and who has it when it is taken."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final

from ..model.errors import AlreadyExists, BadRequest, BangerError

_BACKLOG: Final = 128
_RECEIVE_BUFFER: Final = 1024 * 1024
"""For what comes while we are at something else; the kernel makes net.core.rmem_max of it where that is less."""
_IP_FREEBIND: Final = 15
"""ip(7); the socket module has no name for it."""
_LISTENING: Final = "0A"
_ANY: Final = ("00000000", "0" * 32)


def bind_pair(address: IPv4Address, port: int, *, remedy: str = "") -> tuple[socket.socket, socket.socket]:
    """A UDP and a listening TCP socket, both non-blocking, at an address that the host need not have yet.

    Raises AlreadyExists when one of the two is taken, which says by whom and has the ``remedy`` for a hint; else BadRequest.
    """
    datagrams = _bound(socket.SOCK_DGRAM, address, port, remedy)
    try:
        stream = _bound(socket.SOCK_STREAM, address, port, remedy)
    except BaseException:
        datagrams.close()
        raise
    return datagrams, stream


def _bound(kind: socket.SocketKind, address: IPv4Address, port: int, remedy: str) -> socket.socket:
    sock = socket.socket(socket.AF_INET, kind | socket.SOCK_CLOEXEC)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
        if kind == socket.SOCK_STREAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        sock.bind((str(address), port))
        if kind == socket.SOCK_STREAM:
            sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        raise _explain(kind, address, port, error, remedy) from error
    return sock


def _explain(kind: socket.SocketKind, address: IPv4Address, port: int, error: OSError, remedy: str) -> BangerError:
    protocol = "udp" if kind == socket.SOCK_DGRAM else "tcp"
    where = f"{protocol} port {port} of {address}"
    if error.errno == errno.EADDRINUSE:
        return AlreadyExists(f"{where} is held by {port_holder(protocol, address, port)}", hint=remedy or f"sudo ss -lnp 'sport = :{port}' shows its owner")
    if error.errno in (errno.EACCES, errno.EPERM):
        return BadRequest(f"{where} may not be used by uid {os.geteuid()}")
    return BadRequest(f"{where} cannot be used: {error.strerror}")


def port_holder(protocol: str, address: IPv4Address, port: int) -> str:
    """Who has this ``udp`` or ``tcp`` port of the address, in words: its program and pid when we may look into it, else its uid."""
    uids = dict(_sockets(protocol, address, port))
    for inode, uid in uids.items():
        return _program(inode) or f"a process of uid {uid}"
    return "another process"


def _sockets(protocol: str, address: IPv4Address, port: int) -> Iterator[tuple[int, int]]:
    """Inode and uid of the sockets at this port (proc(5), /proc/net/tcp); addresses there are little-endian words."""
    wanted = {f"{address.packed[::-1].hex().upper()}:{port:04X}", *(f"{any_address}:{port:04X}" for any_address in _ANY)}
    for table in (protocol, f"{protocol}6"):
        try:
            lines = Path("/proc/net", table).read_text().splitlines()[1:]
        except OSError:
            continue
        for fields in map(str.split, lines):
            if fields[1] in wanted and (protocol == "udp" or fields[3] == _LISTENING):
                yield int(fields[9]), int(fields[7])


def _program(inode: int) -> str:
    wanted = f"socket:[{inode}]"
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(_target(link) == wanted for link in (process / "fd").iterdir()):
                return f"{(process / 'comm').read_text().strip()} (pid {process.name})"
        except OSError:  # another user's, or gone
            continue
    return ""


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except OSError:
        return ""
