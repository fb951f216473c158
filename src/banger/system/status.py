"""``banger system status`` and ``restart``: what is installed, what runs of it, and starting that anew."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from ..api.types import DaemonStatus
from ..host.installation import read_installation
from ..host.paths import HELPER_SOCKET, Layout
from ..model.errors import BangerError, NotFound
from ..model.installation import Installation
from ..model.progress import Report
from . import services
from .install import check_root
from .places import Places

_ASK_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class SocketState:
    """A socket of the installation."""

    path: str
    state: str
    """Owner and mode in words, or that it is missing or out of sight."""


@dataclass(frozen=True, slots=True)
class SystemStatus:
    """All that can be seen from here."""

    installation: Installation
    systemd: bool
    units: tuple[services.UnitState, ...]
    """None without systemd."""
    sockets: tuple[SocketState, ...]
    daemon: DaemonStatus | None
    daemon_error: str
    """Why the daemon's status is not known."""
    program: str
    """Directory of the version that is started next."""


def installed(places: Places) -> Installation:
    """What is installed. Raises NotFound."""
    found = read_installation(places.install_file)
    if found is None:
        raise NotFound("banger is not installed as a service of this host", hint="sudo banger system install --owner USER")
    return found


def look(places: Places) -> SystemStatus:
    """Look at everything; changes nothing. Raises NotFound."""
    installation = installed(places)
    systemd = services.is_systemd()
    daemon, error = None, ""
    try:
        daemon = services.ask_daemon(installation.uid, _ASK_SECONDS)
    except BangerError as reason:
        error = reason.message
    system = Layout.system()
    return SystemStatus(
        installation=installation,
        systemd=systemd,
        units=tuple(services.unit_state(name) for name in services.UNITS) if systemd else (),
        sockets=tuple(_socket(path) for path in (system.api_socket, HELPER_SOCKET)),
        daemon=daemon,
        daemon_error=error,
        program=str(places.current.resolve()),
    )


def restart(places: Places, report: Report) -> DaemonStatus:
    """Helper, then daemon, then wait until it answers; machines keep running. Raises Unauthorized, NotFound, BangerError."""
    check_root()
    installation = installed(places)
    services.check_systemd()
    report("services", "restarting helper and daemon")
    services.restart()
    report("services", "waiting until the daemon answers")
    return services.wait_ready(installation.uid)


def _socket(path: Path) -> SocketState:
    try:
        info = path.stat()
    except FileNotFoundError:
        return SocketState(str(path), "missing")
    except PermissionError:
        return SocketState(str(path), f"not for uid {os.getuid()} to see")
    kind = "" if stat.S_ISSOCK(info.st_mode) else "no socket, "
    return SocketState(str(path), f"{kind}uid {info.st_uid}, mode {stat.S_IMODE(info.st_mode):04o}")
