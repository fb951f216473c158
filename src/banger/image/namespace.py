"""Work on files of many owners: as root directly, as an ordinary user in a user namespace that maps the user's subordinate ids.

Either way in a mount and a pid namespace of its own, so that nothing stays mounted and nothing keeps running, however the work ends.
"""

from __future__ import annotations

import asyncio
import os
import pwd
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ..host.files import remove_tree
from ..host.run import find_tool, run
from ..model.errors import BangerError, CommandFailed, MissingTool

# The first process of the namespace dies with unshare, and unshare with us (prctl(2), PR_SET_PDEATHSIG): a killed daemon leaves no build behind.
_PREFIX: Final = ("setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child")
# The user is root inside, so that private directories stay reachable; 1 and up are the subordinate ids. Always the same map: it decides what is on the disk.
_MAP: Final = ("--user", "--map-auto", "--map-root-user")
_FIRST_SUBORDINATE: Final = 100000
"""login.defs(5), SUB_UID_MIN."""
_SUBORDINATE: Final = (Path("/etc/subuid"), Path("/etc/subgid"))


def inside(argv: Sequence[str | Path]) -> list[str | Path]:
    """The argument vector that runs ``argv`` as root of the namespace."""
    return [*_PREFIX, *(() if os.geteuid() == 0 else _MAP), "--", *argv]


async def check() -> None:
    """Raises MissingTool, or BangerError with a remedy, when such namespaces cannot be made here."""
    for tool in ("unshare", "setpriv"):
        find_tool(tool)
    if os.geteuid() != 0:
        find_tool("newuidmap")
        _check_subordinate_ids()
    try:
        await run(inside(["true"]), deadline=30)
    except CommandFailed as error:
        hint = (
            "allow them: sudo sysctl kernel.unprivileged_userns_clone=1 kernel.apparmor_restrict_unprivileged_userns=0 (whichever of the two exists)"
            if os.geteuid()
            else "this container lacks CAP_SYS_ADMIN"
        )
        raise BangerError(f"this host does not let us make a namespace: {error.message}", hint=hint) from error


async def remove(path: Path) -> None:
    """Remove a tree whose files may belong to subordinate ids; success when there is none. Raises OSError or CommandFailed."""
    try:
        await asyncio.to_thread(remove_tree, path)
    except PermissionError:
        if os.geteuid() == 0:
            raise
        await run(inside(["rm", "-rf", "--", path]), deadline=300)


def _free_range() -> str:
    """``FIRST-LAST`` of 65536 ids behind all ranges that somebody has (subuid(5): name:first:count); shared ones would let users at each other's files."""
    ends = [_FIRST_SUBORDINATE]
    for file in _SUBORDINATE:
        for line in file.read_text().splitlines() if file.exists() else ():
            first, _, count = line.partition(":")[2].partition(":")
            if first.isdigit() and count.isdigit():
                ends.append(int(first) + int(count))
    return f"{max(ends)}-{max(ends) + 65535}"


def _user_name(uid: int) -> str:
    """The user's name, or the number when no account has it (newuidmap(1) takes both)."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _check_subordinate_ids() -> None:
    user = _user_name(os.geteuid())
    owners = (f"{user}:", f"{os.geteuid()}:")
    for file in _SUBORDINATE:
        if not any(line.startswith(owners) for line in (file.read_text().splitlines() if file.exists() else ())):
            ids = _free_range()
            raise MissingTool(f"{file} has no range of ids for {user}", hint=f"sudo usermod --add-subuids {ids} --add-subgids {ids} {user}")
