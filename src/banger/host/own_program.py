"""How a process of ours starts another program of ours: that of the same installation, whatever else the host has."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

INSTALLED_LIBRARY: Final = Path("/usr/local/lib/banger")
"""Where ``banger system install`` puts versions of the program."""
INSTALLED_PROGRAMS: Final = Path("/usr/local/bin")
"""Where it puts what starts the current one: the interpreter alone does not find it."""
_MODULES: Final = {"banger": "banger.cli.main", "bangerd": "banger.daemon.main"}
_PACKAGE: Final = Path(__file__).resolve().parents[1]


def own_program(name: str) -> tuple[str, ...]:
    """The first words of a command line that runs ``banger`` or ``bangerd``; ``-P`` keeps the caller's directory off its module path."""
    if is_installed():
        return (str(INSTALLED_PROGRAMS / name),)
    return (sys.executable, "-P", "-m", _MODULES[name])


def is_installed() -> bool:
    """Whether this process runs from what ``banger system install`` has put there."""
    return _PACKAGE.is_relative_to(INSTALLED_LIBRARY)
