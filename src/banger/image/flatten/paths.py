"""Names in archives, taken apart; nothing here knows what is in the tree."""

from __future__ import annotations

from typing import Final

from .limits import BadArchive, shown

MAX_NAME: Final = 255
MAX_PATH: Final = 4095
WHITEOUT: Final = b".wh."
OPAQUE: Final = b".wh..wh..opq"


def components(untrusted_path: bytes) -> list[bytes]:
    """The names on the way from the root; ``.`` and ``..`` are resolved as written, a leading ``/`` is the root. Raises BadArchive for one that leaves it."""
    if len(untrusted_path) > MAX_PATH:
        raise BadArchive(f"a path of {len(untrusted_path)} bytes is longer than Linux allows: {shown(untrusted_path)}")
    found: list[bytes] = []
    for name in untrusted_path.split(b"/"):
        if name == b"..":
            if not found:
                raise BadArchive(f"a path leads out of the archive: {shown(untrusted_path)}")
            found.pop()
        elif name not in {b"", b"."}:
            if len(name) > MAX_NAME:
                raise BadArchive(f"a name of {len(name)} bytes is longer than Linux allows: {shown(name)}")
            found.append(name)
    return found


def hidden_name(untrusted_name: bytes, untrusted_path: bytes) -> bytes:
    """The name that a whiteout hides; ``untrusted_path`` is where it stands. Raises BadArchive when that is none."""
    name = untrusted_name[len(WHITEOUT) :]
    if name in {b"", b".", b".."}:
        raise BadArchive(f"a whiteout of nothing, or of its own or its parent directory: {shown(untrusted_path)}")
    return name
