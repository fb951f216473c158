"""The services of an installation, through systemctl, and whether the daemon answers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..api.types import DaemonStatus
from ..client import Client
from ..client.discovery import Endpoint
from ..host.cgroups.choice import instance_of
from ..host.paths import Layout
from ..host.run_sync import run_sync
from ..model.errors import BangerError, DaemonUnreachable
from .places import DAEMON_UNIT, HELPER_SOCKET_UNIT, HELPER_UNIT

READY_SECONDS: Final = 15.0
"""How long a daemon that systemd calls started may take to answer."""
_START_SECONDS: Final = 320.0
"""More than TimeoutStartSec of any unit."""
_QUICK_SECONDS: Final = 30.0
_LOOK_SECONDS: Final = 0.1
_BOOTED: Final = Path("/run/systemd/system")
"""Is there when systemd runs the host (sd_booted(3))."""
UNITS: Final = (HELPER_SOCKET_UNIT, HELPER_UNIT, DAEMON_UNIT)
_ENABLED: Final = (HELPER_SOCKET_UNIT, DAEMON_UNIT)


@dataclass(frozen=True, slots=True)
class UnitState:
    """What systemd says of a unit; the words are those of systemctl(1)."""

    name: str
    load: str
    active: str
    sub: str
    enabled: str
    pid: int
    """0 = no process."""

    @property
    def is_active(self) -> bool:
        return self.active == "active"


def is_systemd() -> bool:
    """Whether systemd runs this host."""
    return _BOOTED.is_dir()


def check_systemd() -> None:
    """Raises BangerError unless systemd runs this host."""
    if not is_systemd():
        raise BangerError(
            "this host is not run by systemd, which banger's services need",
            hint='without it use banger as any user, or as root with `mode = "bridge"` below [network] in config.toml; --root DIR only lays the files out',
        )


def _systemctl(*words: str, deadline: float = _QUICK_SECONDS, allowed: Sequence[int] = (0,)) -> str:
    return run_sync(["systemctl", "--no-pager", "--quiet", *words], deadline=deadline, allowed=allowed).stdout.decode(errors="replace")


def unit_state(name: str) -> UnitState:
    """The unit's state; one that is not there has ``load`` "not-found"."""
    text = _systemctl("show", "--property=LoadState,ActiveState,SubState,UnitFileState,MainPID", name)
    values = dict(line.partition("=")[::2] for line in text.splitlines())
    pid = values.get("MainPID", "0")
    return UnitState(
        name=name,
        load=values.get("LoadState", ""),
        active=values.get("ActiveState", ""),
        sub=values.get("SubState", ""),
        enabled=values.get("UnitFileState", ""),
        pid=int(pid) if pid.isdecimal() else 0,
    )


def reload_units() -> None:
    """Have systemd read unit files again."""
    _systemctl("daemon-reload", deadline=_START_SECONDS)


def are_enabled() -> bool:
    """Whether the services come with the host's boot."""
    return all(unit_state(name).enabled == "enabled" for name in _ENABLED)


def are_active() -> bool:
    """Whether the daemon runs and the helper can be reached."""
    return all(unit_state(name).is_active for name in _ENABLED)


def enable() -> None:
    """Have the services come with the host's boot."""
    _systemctl("enable", *_ENABLED)


def restart() -> None:
    """The helper (if it runs: its socket starts it when it is needed), then the daemon; machines keep running. Raises BangerError with the daemon's reason."""
    _systemctl("reset-failed", *UNITS, allowed=(0, 1, 5))  # 1, 5: one of them is not loaded
    _systemctl("start", HELPER_SOCKET_UNIT)
    _systemctl("try-restart", HELPER_UNIT, deadline=_START_SECONDS)
    try:
        _systemctl("restart", DAEMON_UNIT, deadline=_START_SECONDS)
    except BangerError as error:
        raise BangerError(
            f"{DAEMON_UNIT} does not start: {_reason() or error.message}", hint=f"journalctl -u {DAEMON_UNIT}; {Layout.system().daemon_log}"
        ) from error


def _reason() -> str:
    """The last line that the daemon wrote to the journal, if that can be asked."""
    try:
        lines = run_sync(["journalctl", "--no-pager", "--output=cat", "--lines=20", "--unit", DAEMON_UNIT], deadline=_QUICK_SECONDS).stdout.decode(
            errors="replace"
        )
    except BangerError:
        return ""
    return next((line for line in reversed(lines.splitlines()) if line.startswith("bangerd: ")), "")


def stop() -> None:
    """End daemon and helper and keep them from coming back; success when there are none."""
    for name in (DAEMON_UNIT, HELPER_SOCKET_UNIT, HELPER_UNIT):
        _systemctl("stop", name, deadline=_START_SECONDS, allowed=(0, 5))  # 5: not loaded
    _systemctl("disable", *_ENABLED, allowed=(0, 1))  # 1: no such unit
    _systemctl("reset-failed", *UNITS, allowed=(0, 1, 5))


def end_slices() -> None:
    """End the slice that systemd made for the machines of this installation, and that of all instances if no other is left in it. No machine may run."""
    _systemctl("stop", f"banger-{instance_of(Layout.system().state)}.slice", allowed=(0, 5))
    if not _systemctl("list-units", "--plain", "--no-legend", "banger-*.slice").strip():
        _systemctl("stop", "banger.slice", allowed=(0, 5))


def stop_daemon() -> None:
    """End the daemon until it is started again; machines keep running."""
    _systemctl("stop", DAEMON_UNIT, deadline=_START_SECONDS, allowed=(0, 5))  # 5: not loaded


def serves(uid: int, version: str) -> bool:
    """Whether the daemon answers and is of that version: an installation that was killed before it restarted the services leaves an older one running."""
    try:
        return ask_daemon(uid).version == version
    except BangerError:
        return False


def system_endpoint(uid: int) -> Endpoint:
    """The installed daemon as root sees it; ``uid`` is the owner's."""
    system = Layout.system()
    return Endpoint(api=system.api_socket, attach=system.attach_socket, layout=None, uid=uid)


def ask_daemon(uid: int, timeout: float = READY_SECONDS) -> DaemonStatus:
    """What the daemon says of itself. Raises BangerError when nobody answers, or somebody else than the owner's daemon does."""
    with Client(system_endpoint(uid), start=False, timeout=timeout) as client:
        status: DaemonStatus = client.call("daemon.status")
    return status


def wait_ready(uid: int) -> DaemonStatus:
    """The daemon's status as soon as it answers. Raises DaemonUnreachable when that takes longer than ``READY_SECONDS``."""
    until = time.monotonic() + READY_SECONDS
    while True:
        try:
            return ask_daemon(uid)
        except DaemonUnreachable as error:
            if time.monotonic() > until:
                raise DaemonUnreachable(
                    f"the daemon does not answer within {READY_SECONDS:g} s: {error.message}", hint=f"journalctl -u {DAEMON_UNIT}"
                ) from error
        time.sleep(_LOOK_SECONDS)
