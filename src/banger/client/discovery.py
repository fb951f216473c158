"""Which daemon a command talks to, and whether its sockets can be trusted."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..host.paths import INSTALL_FILE, Layout, check_private
from ..host.sockets import connect, peer_of
from ..model.errors import Unauthorized

CONNECT_TIMEOUT = 10.0
"""Seconds; a local connect only waits while the daemon's backlog is full."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The two sockets of one daemon."""

    api: Path
    attach: Path
    layout: Layout | None
    """The instance behind them; None when the socket was named outright."""
    uid: int | None = None
    """Who serves it, besides root; None = ourselves."""

    @classmethod
    def of(cls, layout: Layout) -> Endpoint:
        return cls(api=layout.api_socket, attach=layout.attach_socket, layout=layout)

    @property
    def system(self) -> bool:
        """It is the installed system's, which systemd starts, not we."""
        return self.layout == Layout.system()

    def open(self, path: Path) -> socket.socket:
        """Connect to ``api`` or ``attach``.

        Raises FileNotFoundError or ConnectionRefusedError when nobody listens, TimeoutError, and Unauthorized when the directory or the
        process behind the socket could be somebody else's.
        """
        if self.layout is not None:
            check_private(path.parent)
        sock = connect(path, timeout=CONNECT_TIMEOUT)
        try:
            owner = peer_of(sock).uid
            if owner not in (os.getuid() if self.uid is None else self.uid, 0):
                raise Unauthorized(f"{path} is served by uid {owner}, which is neither you nor root", hint="unset BANGER_SOCKET, or name a socket of your own")
        except BaseException:
            sock.close()
            raise
        return sock


def find_endpoint(environment: Mapping[str, str] | None = None) -> Endpoint:
    """The daemon that these environment variables mean: ``BANGER_SOCKET`` (never started by us), else that of ``find_layout``."""
    env = os.environ if environment is None else environment
    if named := env.get("BANGER_SOCKET"):
        api = Path(named).absolute()
        return Endpoint(api=api, attach=api.with_name("attach.sock"), layout=None)
    return Endpoint.of(find_layout(env))


def find_layout(environment: Mapping[str, str] | None = None) -> Layout:
    """The caller's instance: ``BANGER_HOME``, else the installed system's when it is theirs, else the one in their own directories.

    Raises BadRequest or Unauthorized when it cannot be known whose the system is.
    """
    env = os.environ if environment is None else environment
    return Layout.system() if not env.get("BANGER_HOME") and _owns_system() else Layout.from_environment(env)


def _owns_system() -> bool:
    """Whether banger is installed on this host for the caller. Others, root too, keep instances of their own."""
    if not INSTALL_FILE.exists():
        return False
    from ..host.installation import read_installation  # what it imports takes longer than most commands have

    installation = read_installation()
    return installation is not None and installation.uid == os.getuid()
