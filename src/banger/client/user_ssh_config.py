"""Our block in the user's own ~/.ssh/config: one fenced Include at the top, everything else left byte for byte as it is."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ..host.files import write_atomically
from ..model.errors import BadRequest

BEGIN: Final = b"# >>> banger (banger ssh-config --uninstall removes this block) >>>\n"
END: Final = b"# <<< banger <<<\n"
_MAX_BYTES: Final = 4 * 1024 * 1024


def default_path() -> Path:
    """The file that ssh reads for this user."""
    return Path.home() / ".ssh" / "config"


def with_block(content: bytes, include: str) -> bytes:
    """``content`` with exactly one block, at the top: below a ``Host`` line it would only hold for that host. Raises BadRequest for half a block."""
    return BEGIN + include.encode(errors="surrogateescape") + b"\n" + END + without_block(content)


def without_block(content: bytes) -> bytes:
    """``content`` as it was before. Raises BadRequest for half a block."""
    while (start := _line(content, BEGIN)) >= 0:
        end = content.find(END, start)
        if end < 0:
            raise BadRequest("the block of banger has lost its last line", hint=f"remove what is left of it by hand; it ended with {END.decode().strip()!r}")
        content = content[:start] + content[end + len(END) :]
    return content


def is_installed(path: Path, include: str) -> bool:
    """Whether the file has our block with this line."""
    return _line(_read(path), BEGIN + include.encode(errors="surrogateescape") + b"\n") >= 0


def install(path: Path, include: str) -> bool:
    """Put the block in; False when it is there already. Raises BadRequest, OSError."""
    return _change(path, lambda content: with_block(content, include))


def uninstall(path: Path) -> bool:
    """Take the block out; False when there is none. Raises BadRequest, OSError."""
    return _change(path, without_block)


def _line(content: bytes, line: bytes) -> int:
    """Where a line begins, -1 when there is none."""
    return 0 if content.startswith(line) else (found + 1 if (found := content.find(b"\n" + line)) >= 0 else -1)


def _change(path: Path, change: Callable[[bytes], bytes]) -> bool:
    """Rewrite the file in one step, mode and links kept; made 0600, its directory 0700, when there is none."""
    target = path.resolve()
    before = _read(target)
    after = change(before)
    if after == before:
        return False
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else 0o600
    write_atomically(target, after, mode=mode)
    return True


def _read(path: Path) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return b""
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise BadRequest(f"{path} is not a regular file", hint="put the Include line where you want it by hand")
    with os.fdopen(fd, "rb") as file:
        content = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise BadRequest(f"{path} is larger than {_MAX_BYTES >> 20} MiB", hint="put the Include line at its top by hand")
    return content
