"""Reading and writing ``install.toml``, which only root may have written: what the privileged helper does depends on it alone."""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections.abc import Mapping
from ipaddress import IPv4Network
from pathlib import Path
from typing import Final

from ..model.errors import BadRequest, Unauthorized
from ..model.installation import Installation
from ..model.limits import FIRST_VMM_UID
from ..model.network import network_plan
from .paths import INSTALL_FILE

MAX_INSTALL_BYTES: Final = 64 * 1024
MAX_REACHABLE: Final = 64
_HINT: Final = "sudo banger system install --owner USER writes it anew"
_USER: Final = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.@\\-]{0,254}\$?")
_LINE: Final = re.compile(r"[^\x00-\x1f\x7f]{1,4096}")


def read_installation(path: Path = INSTALL_FILE, *, trusted_uid: int = 0) -> Installation | None:
    """What was installed on this host; None when nothing was.

    Raises Unauthorized when somebody else than ``trusted_uid`` could have written the file, BadRequest when it cannot be understood.
    """
    try:
        untrusted = read_guarded(path, trusted_uid)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise BadRequest(f"{path} cannot be read: {error.strerror}", hint=_HINT) from error
    try:
        return _decode(tomllib.loads(untrusted.decode()))
    except (BadRequest, KeyError, TypeError, ValueError, RecursionError) as error:
        raise BadRequest(f"{path} is not an installation's file: {error!s}", hint=_HINT) from error


def format_installation(installation: Installation) -> str:
    """The text of ``install.toml`` that says this; ``read_installation`` gives the same back."""
    network = installation.network
    reachable = ", ".join(_quote(one) for one in installation.reachable)
    return "\n".join(
        (
            "# Written by `banger system install`. The privileged helper believes this file, so it belongs to root.",
            f"version = {_quote(installation.version)}",
            f"installed_at = {_quote(installation.installed_at)}",
            "",
            "[owner]",
            f"user = {_quote(installation.owner)}",
            f"uid = {installation.uid}",
            f"gid = {installation.gid}",
            f"home = {_quote(str(installation.home))}",
            "",
            "[network]",
            f"bridge = {_quote(network.bridge)}",
            f"subnet = {_quote(str(network.subnet))}",
            f"reachable = [{reachable}]",
            "",
        )
    )


def _quote(text: str) -> str:
    """A basic string of TOML."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in escaped) + '"'


def read_guarded(path: Path, trusted_uid: int) -> bytes:
    """Content of a regular file that nobody but ``trusted_uid`` can have written or put there."""
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _check_writers(os.fstat(directory), path.parent, trusted_uid)
        if stat.S_ISLNK(os.stat(path.name, dir_fd=directory, follow_symlinks=False).st_mode):
            raise Unauthorized(f"{path} is a symbolic link", hint=_HINT)
        fd = os.open(path.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    finally:
        os.close(directory)
    with os.fdopen(fd, "rb") as file:
        info = os.fstat(fd)
        _check_writers(info, path, trusted_uid)
        if not stat.S_ISREG(info.st_mode) or info.st_size > MAX_INSTALL_BYTES:
            raise BadRequest(f"{path} is no regular file of at most {MAX_INSTALL_BYTES // 1024} KiB", hint=_HINT)
        return file.read(MAX_INSTALL_BYTES)


def _check_writers(info: os.stat_result, path: Path, trusted_uid: int) -> None:
    if info.st_uid != trusted_uid:
        raise Unauthorized(f"{path} belongs to uid {info.st_uid}, not to {trusted_uid}", hint=f"chown {trusted_uid}: {path}, or remove it")
    if info.st_mode & 0o022:
        raise Unauthorized(f"others may write {path} (mode {info.st_mode & 0o7777:04o})", hint=f"chmod go-w {path}")


def _decode(document: Mapping[str, object]) -> Installation:
    owner, network = _table(document, "owner"), _table(document, "network")
    return Installation(
        owner=_text(owner, "user", _USER),
        uid=_number(owner, "uid", 1, FIRST_VMM_UID - 1),
        gid=_number(owner, "gid", 0, FIRST_VMM_UID - 1),
        home=_absolute(owner, "home"),
        network=network_plan(_text(network, "bridge", _LINE), _text(network, "subnet", _LINE)),
        version=_text(document, "version", _LINE),
        installed_at=_text(document, "installed_at", _LINE),
        reachable=_reachable(network.get("reachable", [])),
    )


def _table(document: Mapping[str, object], key: str) -> Mapping[str, object]:
    value = document[key]
    if not isinstance(value, dict):
        raise BadRequest(f"{key} is no table")
    return value


def _text(table: Mapping[str, object], key: str, pattern: re.Pattern[str]) -> str:
    value = table[key]
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise BadRequest(f"{key} cannot be {value!r}")
    return value


def _number(table: Mapping[str, object], key: str, least: int, most: int) -> int:
    value = table[key]
    if type(value) is not int or not least <= value <= most:
        raise BadRequest(f"{key} cannot be {value!r}")
    return value


def _absolute(table: Mapping[str, object], key: str) -> Path:
    path = Path(_text(table, key, _LINE))
    if not path.is_absolute():
        raise BadRequest(f"{key} is no absolute path: {path}")
    return path


def _reachable(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > MAX_REACHABLE or not all(isinstance(one, str) for one in value):
        raise BadRequest(f"reachable is no array of at most {MAX_REACHABLE} networks")
    return tuple(str(IPv4Network(one)) for one in value)
