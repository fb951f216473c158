"""What is mounted below a directory (proc(5), /proc/PID/mountinfo). A device number tells it not: a bind mount has that of the directory around it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from .run import run

_ESCAPE: Final = re.compile(rb"\\([0-7]{3})")
_UNMOUNT_SECONDS: Final = 30.0


def mounts_in(directory: Path) -> tuple[Path, ...]:
    """Mount points at or below ``directory``, in the order in which they can be unmounted. None when /proc cannot be read."""
    top = os.fsencode(os.path.realpath(directory))
    try:
        lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
    except OSError:
        return ()
    places = [_ESCAPE.sub(lambda escape: bytes([int(escape[1], 8)]), line.split()[4]) for line in lines]
    return tuple(Path(os.fsdecode(place)) for place in reversed(places) if place == top or place.startswith(top + b"/"))


async def unmount(place: Path) -> None:
    """Unmount what is mounted there. Raises CommandFailed when we may not, or somebody uses it."""
    await run(["umount", "--", str(place)], deadline=_UNMOUNT_SECONDS)
