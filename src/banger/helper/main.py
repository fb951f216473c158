"""``banger-helper``: the privileged process. systemd starts it when the daemon of the owner first asks for something, and ends it by SIGTERM."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from .. import __version__
from ..host import sockets, systemd
from ..host.installation import read_installation
from ..host.logs import log_to_stderr
from ..host.paths import INSTALL_FILE, Layout
from ..host.run import SEARCH_PATH, use_pidfd_child_watcher
from ..model.errors import BadRequest, BangerError, NotFound
from ..model.installation import Installation
from .protocol import PrivilegedOps
from .server import HelperServer
from .verbs import Scope

log = logging.getLogger(__name__)

_DESCRIPTORS: Final = 4096
"""32 connections may bring 32 each."""


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit status."""
    options = _parse(argv)
    os.umask(0o077)
    os.chdir("/")
    log_to_stderr(options.log_level)
    try:
        passed = systemd.take_sockets()
        notify_socket = os.environ.get("NOTIFY_SOCKET", "")
        _forget_environment()
        installation = _installation(options.install_file, activated=bool(passed))
        with _listener(passed, options.socket, installation) as listener:
            use_pidfd_child_watcher()
            _raise_descriptor_limit()
            asyncio.run(_serve(listener, installation, {"NOTIFY_SOCKET": notify_socket}))
    except (BangerError, OSError) as error:
        hint = f" ({error.hint})" if isinstance(error, BangerError) and error.hint else ""
        log.critical("%s%s", error, hint)
        return 1
    return 0


async def _serve(listener: socket.socket, installation: Installation, manager: dict[str, str]) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    server = HelperServer(compose(installation))
    systemd.notify("READY=1", manager)
    log.info("serving", extra={"version": __version__, "pid": os.getpid(), "owner": installation.owner, "uid": installation.uid})
    await server.serve(listener, stopping)
    systemd.notify("STOPPING=1", manager)
    log.info("stopped")


def compose(installation: Installation) -> Scope:
    """What acts for this installation. The only place of the helper that names concrete classes."""
    from ..host.cgroups.choice import choose_groups, instance_of
    from .names.host import HostNames
    from .network.host_network import HostNetwork
    from .vmms.host import HostVmms

    groups = choose_groups(instance_of(Layout.system().state))
    if groups is None:
        raise BangerError("this host has no cgroups in which a VMM could be bounded", hint="banger doctor says what is missing")
    plan = installation.network
    ops = PrivilegedOps(
        network=HostNetwork(plan, reachable=installation.reachable, tap_owner=installation.uid),
        names=HostNames(plan),
        vmms=HostVmms(groups, for_another=True),
    )
    return Scope(ops=ops, plan=plan, uid=installation.uid)


def _installation(path: Path, *, activated: bool) -> Installation:
    if activated and path != INSTALL_FILE:
        raise BadRequest("--install-file is for a helper that is started by hand", hint="leave it out of the unit")
    installation = read_installation(path, trusted_uid=os.getuid())
    if installation is None:
        raise NotFound(f"nothing is installed: there is no {path}", hint="sudo banger system install --owner USER")
    return installation


def _listener(passed: Sequence[socket.socket], path: Path | None, installation: Installation) -> socket.socket:
    """The socket that systemd passed, or one at ``path`` for the owner."""
    if len(passed) > 1 or bool(passed) == bool(path):
        raise BadRequest("one listening socket is needed: from systemd, or made at --socket PATH", hint="systemctl start banger-helper.socket")
    if path is None:
        return _checked(passed[0])
    listener = sockets.listen(path, kind=socket.SOCK_SEQPACKET)
    if os.getuid() == 0:
        os.chown(path, installation.uid, -1)
    return listener


def _checked(sock: socket.socket) -> socket.socket:
    listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if (sock.family, sock.type, listens) != (socket.AF_UNIX, socket.SOCK_SEQPACKET, 1):
        raise BadRequest("the socket from systemd is none that listens for sequenced packets", hint="ListenSequentialPacket= in banger-helper.socket")
    return sock


def _forget_environment() -> None:
    """Nothing that somebody set decides what programs of ours do."""
    os.environ.clear()
    os.environ |= {"PATH": SEARCH_PATH, "LC_ALL": "C.UTF-8"}


def _raise_descriptor_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(_DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="banger-helper", description="The privileged helper of banger. systemd starts it; see docs/system.md.")
    parser.add_argument("--version", action="version", version=f"banger-helper {__version__}")
    parser.add_argument("--socket", type=Path, help="listen here instead of on the socket from systemd (for tests)")
    parser.add_argument("--install-file", type=Path, default=INSTALL_FILE, help="believe this file (for tests)")
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
