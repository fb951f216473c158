"""Unix sockets: paths of any length through a directory descriptor, private from birth, peer credentials."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end of a unix socket (unix(7), SO_PEERCRED)."""

    pid: int
    uid: int
    gid: int


@contextmanager
def short_name(path: Path) -> Iterator[str]:
    """A name of the socket ``path`` that fits into the 107 bytes of sun_path however deep it lies: through a descriptor of its directory."""
    fd = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{path.name}"
    finally:
        os.close(fd)


def listen(path: Path, *, backlog: int = 128, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
    """A listening socket at ``path``, mode 0600 from birth, replacing what was there. The caller makes sure that nobody serves it."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    sock = socket.socket(socket.AF_UNIX, kind | socket.SOCK_CLOEXEC)
    try:
        # The mode of a unix socket is that of its descriptor at bind (and the umask), so no moment exists in which others could connect.
        os.fchmod(sock.fileno(), 0o600)
        with short_name(path) as name:
            sock.bind(name)
        sock.listen(backlog)
    except BaseException:
        sock.close()
        raise
    return sock


def connect(path: Path, *, timeout: float | None = None) -> socket.socket:
    """A connected stream socket. Raises FileNotFoundError, ConnectionRefusedError, or TimeoutError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.settimeout(timeout)
        with short_name(path) as name:
            sock.connect(name)
    except BaseException:
        sock.close()
        raise
    return sock


def peer_of(sock: socket.socket) -> Peer:
    """Credentials of the process that connected."""
    return Peer(*struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)))
