"""Who makes the groups on this host."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from typing import Final

from ..run import SEARCH_PATH
from .protocol import Groups
from .raw import RawGroups
from .scopes import SystemdScopes

_BOOTED: Final = Path("/run/systemd/system")
"""Exists exactly where systemd is the init (sd_booted(3))."""


def instance_of(state: Path) -> str:
    """The word for the instance whose state lies there: several share a host."""
    return hashlib.sha256(os.fsencode(state)).hexdigest()[:12]


def choose_groups(instance: str) -> Groups | None:
    """What makes groups for VMMs that this process starts; None where nothing can: in most containers, or for a user without a systemd of their own."""
    if any(shutil.which(tool, path=SEARCH_PATH) is None for tool in ("flock", "setpriv")):
        return None
    if _BOOTED.is_dir():
        user = os.geteuid() != 0
        usable = shutil.which("busctl", path=SEARCH_PATH) is not None and (not user or _user_manager().exists())
        return SystemdScopes(instance, user=user) if usable else None
    groups = RawGroups(instance)
    return groups if os.geteuid() == 0 and groups.enforced() else None


def _user_manager() -> Path:
    """Where a user's own systemd listens."""
    return Path(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}", "systemd", "private")
