"""``[[file_sync]]`` of ``config.toml``: what an entry may say. Nothing is looked up here: that is done at each start of a machine."""

from __future__ import annotations

import re
from typing import Final

from ..model.config import FileSync
from ..model.errors import BadRequest

MAX_ENTRIES: Final = 256
_KEYS: Final = ("host", "guest", "mode")
_MODE: Final = re.compile(r"0?[0-7]{3}", re.ASCII)
_EXAMPLE: Final = 'for example [[file_sync]] host = "~/.netrc" guest = "~/.netrc" mode = "0600", one key per line'


def read_file_sync(untrusted: object) -> tuple[FileSync, ...]:
    """The entries; raises BadRequest that names the entry's index, which begins with 0."""
    if not isinstance(untrusted, list) or not all(isinstance(entry, dict) for entry in untrusted):
        raise BadRequest("an array of tables is expected", hint=_EXAMPLE)
    if len(untrusted) > MAX_ENTRIES:
        raise BadRequest(f"{len(untrusted)} entries are too many", hint=f"at most {MAX_ENTRIES}; name directories")
    return tuple(_entry(f"[{index}]", entry) for index, entry in enumerate(untrusted))


def _entry(where: str, untrusted: dict[str, object]) -> FileSync:
    for key in untrusted:
        if key not in _KEYS:
            raise BadRequest(f"{where}: unknown key {key}", hint=f"the keys are: {', '.join(_KEYS)}")
    host, guest, mode = (_text(where, untrusted, key) for key in _KEYS)
    return FileSync(host=_host(f"{where}.host", host), guest=_guest(f"{where}.guest", guest), mode=_mode(f"{where}.mode", mode))


def _text(where: str, untrusted: dict[str, object], key: str) -> str:
    value = untrusted.get(key, "0600" if key == "mode" else "")
    if not isinstance(value, str):
        raise BadRequest(f"{where}.{key}: a string is expected", hint=_EXAMPLE)
    if not value:
        raise BadRequest(f"{where}.{key} is empty", hint=_EXAMPLE)
    return value


def _host(where: str, path: str) -> str:
    if not path.startswith(("/", "~/")) or path == "~/":
        raise BadRequest(f"{where}: {path!r} is neither absolute nor below your home", hint="write /... or ~/...; another user's home (~name/) is not meant")
    return _plain(where, path)


def _guest(where: str, path: str) -> str:
    path = _plain(where, path)
    below = next((path.removeprefix(top) for top in ("~/", "/root/") if path.startswith(top)), "").strip("/")
    if not below:
        raise BadRequest(f"{where}: {path!r} is not below /root", hint="write ~/... or /root/...")
    return f"/root/{below}"


def _plain(where: str, path: str) -> str:
    if ".." in path.split("/") or "\0" in path:
        raise BadRequest(f"{where}: {path!r} may not hold `..`", hint="name the place itself")
    return path


def _mode(where: str, text: str) -> int:
    if not _MODE.fullmatch(text):
        raise BadRequest(f"{where}: {text!r} is no mode of a file", hint='for example "0600" or "0755"')
    return int(text, 8)
