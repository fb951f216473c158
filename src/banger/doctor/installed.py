"""banger as a service of the host: its file, its units, its helper, and that nobody but root can change what root runs."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from .. import __version__
from ..helper.client import HelperClient
from ..host.paths import HELPER_SOCKET, INSTALL_FILE
from ..model.errors import BangerError
from ..system import services
from ..system.places import DAEMON_UNIT, HELPER_SOCKET_UNIT, HELPER_UNIT, LIBRARY, Places
from .ground import Ground, user_name
from .outcome import Command, Fix, Result, commands, failed, passed, refused, skipped, warned

_NOT_INSTALLED: Final = "not installed for the host; sudo banger system install does"
_ANSWER_SECONDS: Final = 4.0
_MOST_NAMED: Final = 3


def install_file(ground: Ground) -> Result:
    """``install.toml``: the helper believes it, so it is root's."""
    if ground.installation_error is not None:
        return refused(ground.installation_error)
    if ground.installation is None:
        return skipped(_NOT_INSTALLED)
    return passed(f"{INSTALL_FILE}: version {ground.installation.version} for {ground.installation.owner}, {ground.installation.installed_at}")


def owner(ground: Ground) -> Result:
    """The account that the machines belong to is there still, under its number."""
    installation = ground.installation
    if installation is None:
        return skipped(_NOT_INSTALLED)
    if user_name(installation.uid) != installation.owner:
        return failed(
            f"uid {installation.uid} is {user_name(installation.uid)}, not {installation.owner}", "sudo banger system uninstall, then install for the new owner"
        )
    if not ground.system:
        return passed(f"{installation.owner}'s; {ground.user} has an instance of their own")
    return passed(installation.owner)


def units(ground: Ground) -> Result:
    """There, enabled, running: the socket of the helper and the daemon."""
    installation = ground.installation
    if installation is None:
        return skipped(_NOT_INSTALLED)
    if not services.is_systemd():
        return failed("systemd does not run this host, and so no service", "boot the host with systemd, or use banger without a system installation")
    states = [services.unit_state(name) for name in (HELPER_SOCKET_UNIT, DAEMON_UNIT)]
    if lost := [state.name for state in states if state.load != "loaded"]:
        return failed(f"{', '.join(lost)} not there", commands(f"banger system install --owner {installation.owner}"))
    if stopped := [state.name for state in states if not state.is_active]:
        return failed(f"{', '.join(stopped)} not running; journalctl -u {stopped[0]} says why", commands("banger system restart"))
    if disabled := [state.name for state in states if state.enabled != "enabled"]:
        return warned(f"{', '.join(disabled)} not started when the host boots", commands(f"systemctl enable {' '.join(disabled)}"))
    helper = services.unit_state(HELPER_UNIT)
    if helper.active == "failed":
        return failed(f"{HELPER_UNIT} has failed; journalctl -u {HELPER_UNIT} says why", commands("banger system restart"))
    return passed(f"{', '.join(state.name for state in states)} run and start with the host")


def helper(ground: Ground) -> Result:
    """It answers its owner, and is of this version, with this network."""
    installation = ground.installation
    if installation is None:
        return skipped(_NOT_INSTALLED)
    if os.geteuid() not in (0, installation.uid):
        return skipped(f"answers {installation.owner} alone")
    try:
        info = asyncio.run(HelperClient(call_seconds=_ANSWER_SECONDS).info())
    except BangerError as error:
        return failed(error.message, commands("banger system restart"))
    restart = commands("banger system restart")
    if info.version != installation.version or (ground.system and info.version != __version__):
        return warned(f"the helper is version {info.version}, install.toml says {installation.version}, this is {__version__}", restart)
    if info.network != installation.network or info.uid != installation.uid:
        return warned("the helper has read another install.toml than is there now", restart)
    return passed(f"answers: version {info.version}, pid {info.pid}")


def code(ground: Ground) -> Result:
    """Root runs it, so root alone may write it: files, directories, and all above them."""
    if ground.installation is None:
        return skipped(_NOT_INSTALLED)
    library = ground.at(LIBRARY)
    if not library.is_dir():
        return failed(f"{LIBRARY} is missing", commands(f"banger system install --owner {ground.installation.owner}"))
    places = Places(ground.root)
    single = (*(path for path, _ in places.programs), *map(places.unit, services.UNITS), places.install_file)
    above = (*library.parents, *(parent for path in single for parent in path.parents))
    unsafe = sorted({path for path in (*_tree(library), *single, *above) if _is_unsafe(path, ground.root)})
    if not unsafe:
        return passed(f"{LIBRARY} and the units are root's alone")
    named = ", ".join(map(str, unsafe[:_MOST_NAMED])) + (f" and {len(unsafe) - _MOST_NAMED} more" if len(unsafe) > _MOST_NAMED else "")
    fix = Fix(tuple(Command((*words, *map(str, unsafe))) for words in (("chown", "--no-dereference", "root:"), ("chmod", "go-w"))))
    remedy = fix if len(unsafe) <= _MOST_NAMED else f"sudo chown -R root: {LIBRARY} && sudo chmod -R go-w {LIBRARY}"
    return failed(f"others than root may write {named}, which root runs", remedy)


def _tree(top: Path) -> Iterator[Path]:
    yield top
    for directory, names, files in os.walk(top):
        yield from (Path(directory, name) for name in (*names, *files))


def _is_unsafe(path: Path, root: Path) -> bool:
    """A directory with the sticky bit, as /tmp is, lets nobody replace what is another's."""
    if not path.is_relative_to(root):
        return False
    try:
        info = path.lstat()
    except OSError:
        return False
    if stat.S_ISLNK(info.st_mode):
        return info.st_uid != 0
    return info.st_uid != 0 or (bool(info.st_mode & 0o022) and not info.st_mode & stat.S_ISVTX)


def sockets(ground: Ground) -> Result:
    """Nobody but the owner may talk to them."""
    installation = ground.installation
    if installation is None:
        return skipped(_NOT_INSTALLED)
    try:
        info = ground.at(HELPER_SOCKET).lstat()
        if not stat.S_ISSOCK(info.st_mode):
            return failed(f"{HELPER_SOCKET} is no socket", commands("banger system restart"))
        if info.st_uid != installation.uid or info.st_mode & 0o077:
            return failed(f"{HELPER_SOCKET} has mode {stat.S_IMODE(info.st_mode):04o} of uid {info.st_uid}", _close(installation.uid))
        if ground.system and (api := ground.layout.api_socket.lstat()).st_mode & 0o077:
            return failed(
                f"{ground.layout.api_socket} has mode {stat.S_IMODE(api.st_mode):04o}",
                Fix((Command(("chmod", "600", str(ground.layout.api_socket))),), "owner"),
            )
    except FileNotFoundError as error:
        return failed(f"{error.filename} is missing", commands("banger system restart"))
    except PermissionError:
        return skipped(f"not for uid {os.getuid()} to see")
    return passed(f"open to {installation.owner} alone")


def _close(uid: int) -> Fix:
    return commands(f"chown {uid} {HELPER_SOCKET}", f"chmod 600 {HELPER_SOCKET}")


def interpreter(ground: Ground) -> Result:
    """The Python that runs this, or, of an installed system, that the services are started with."""
    if ground.installation is None:
        return passed(f"Python {sys.version.split()[0]}, {sys.executable}")
    launcher = next(path for path, module in Places(ground.root).programs if module == "banger.daemon.main")
    again = commands(f"banger system install --owner {ground.installation.owner}")
    try:
        first = launcher.read_text(errors="replace").partition("\n")[0]
    except OSError:
        return failed(f"{launcher} is missing", again)
    python = first.removeprefix("#!").partition(" ")[0]
    if not ground.at(python).exists():
        return failed(f"{python}, which the services are run by, is gone", again)
    return passed(python)


CHECKS: Final[tuple[tuple[str, str, Callable[[Ground], Result]], ...]] = (
    ("installation.interpreter", "interpreter", interpreter),
    ("installation.install-file", "install.toml", install_file),
    ("installation.owner", "owner", owner),
    ("installation.units", "units", units),
    ("installation.helper", "helper", helper),
    ("installation.code", "root's code", code),
    ("installation.sockets", "sockets", sockets),
)
