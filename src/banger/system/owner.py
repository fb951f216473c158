"""Whose machines the system runs, and what that user must not be able to write: everything that root executes."""

from __future__ import annotations

import grp
import os
import pwd
import stat
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from ..model.errors import BadRequest, NotFound, Unauthorized
from ..model.limits import FIRST_VMM_UID


@dataclass(frozen=True, slots=True)
class Owner:
    """A user of this host."""

    name: str
    uid: int
    gid: int
    home: Path
    groups: frozenset[int]


def find_owner(name: str) -> Owner:
    """The user of that name. Raises NotFound, or BadRequest for root and for users who cannot own machines."""
    try:
        entry = pwd.getpwnam(name)
    except (KeyError, ValueError):
        raise NotFound(f"there is no user {name!r} on this host", hint="name an existing user, or make one: sudo useradd --create-home NAME") from None
    if entry.pw_uid == 0:
        raise BadRequest(f"{name} is root, which cannot be the owner", hint="the daemon must not have root's rights: name the user who will use the machines")
    if not 0 < entry.pw_uid < FIRST_VMM_UID:
        raise BadRequest(f"{name} has uid {entry.pw_uid}, from the range of the machines' own uids", hint="name another user")
    if not entry.pw_dir.startswith("/"):
        raise BadRequest(f"{name} has no home directory", hint=f"sudo usermod --home /home/{name} {name}")
    groups = frozenset(os.getgrouplist(name, entry.pw_gid))
    return Owner(name=name, uid=entry.pw_uid, gid=entry.pw_gid, home=Path(entry.pw_dir), groups=groups)


def kvm_group() -> str:
    """The group that may open /dev/kvm, for the daemon's unit; "" when this host has none of that name."""
    try:
        return grp.getgrnam("kvm").gr_name
    except KeyError:
        return ""


def interpreter(owner: Owner) -> Path:
    """The interpreter that installed programs are run by: the one behind ours, outside of any virtual environment.

    Raises Unauthorized when the owner could change it or its standard library.
    """
    program = Path(getattr(sys, "_base_executable", "") or sys.executable).resolve()
    for path in (program, *(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib"))):
        check_beyond_reach(path, owner)
    return program


def check_beyond_reach(path: Path, owner: Owner) -> None:
    """Raises Unauthorized when the owner could write ``path`` or put something else in its place. What is not there yet is looked at where it will be."""
    for one in (path, *path.parents):
        try:
            info = one.stat()
        except FileNotFoundError:
            continue
        if _may_write(info, owner):
            message = f"{owner.name} could change {one}, and root would execute what is in it"
            raise Unauthorized(message, hint=f"run this with /usr/bin/python3, or: sudo chown root: {one}; sudo chmod go-w {one}")


def _may_write(info: os.stat_result, owner: Owner) -> bool:
    if info.st_uid == owner.uid:
        return True
    if stat.S_ISDIR(info.st_mode) and info.st_mode & stat.S_ISVTX:  # others can add to it, and replace nothing
        return False
    return bool(info.st_mode & stat.S_IWOTH or (info.st_mode & stat.S_IWGRP and info.st_gid in owner.groups))
