"""The programs that stand behind the words of a ``Launch``, and what they are started behind."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ...host.run import SEARCH_PATH, find_tool
from ...model.errors import BadRequest, MissingTool

PROGRAMS: Final = {"qemu": "qemu-system-x86_64"}


def trusted_program(word: str) -> Path:
    """The program in the system's own directories, proven to be root's alone. Raises BadRequest for a word that we do not know, or MissingTool."""
    name = _name(word)
    for directory in SEARCH_PATH.split(":"):
        path = Path(directory, name)
        if path.is_file():
            found = path.resolve()
            for one in (found, *found.parents):
                _check_owner(one)
            return found
    raise MissingTool(f"{name} is not installed in {SEARCH_PATH}", hint="sudo apt-get install qemu-system-x86")


def own_program(word: str) -> Path:
    """The program as this process finds it. Raises BadRequest for a word that we do not know, or MissingTool."""
    return find_tool(_name(word))


def _name(word: str) -> str:
    if word not in PROGRAMS:
        raise BadRequest(f"the program {word[:64]!r} is not started by us")
    return PROGRAMS[word]


def _check_owner(path: Path) -> None:
    info = path.stat()
    if info.st_uid != 0 or info.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise BadRequest(f"{path} is refused: it can be changed by others than root", hint=f"sudo chown root: {path} && sudo chmod go-w {path}")


def without_privileges(uid: int, groups: Sequence[int]) -> tuple[str, ...]:
    """Words before a program that let it run as this uid, its gid and these groups, with no capability, and no way to get one back. Raises MissingTool."""
    ids = ("--reuid", str(uid), "--regid", str(uid), *(("--groups", ",".join(map(str, groups))) if groups else ("--clear-groups",)))
    capabilities = ("--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-all")
    return str(find_tool("setpriv")), *ids, *capabilities, "--no-new-privs", "--"
