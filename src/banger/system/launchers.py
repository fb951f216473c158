"""The programs that are installed: a few lines each, which put the current version, and nothing else, on the path of an isolated interpreter."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from ..model.errors import BadRequest

_LONGEST_INTERPRETER: Final = 120
"""execve(2): the line after #! has 127 bytes on old kernels, 255 on new ones."""

# -I: no variable, no directory of the caller's, no site-packages of the user's; -S: none of the host's, which others than root may write on some systems.
_TEXT: Final = """\
#!{interpreter} -IS
# Written by `banger system install`.
import os
import sys

# The version that is current now, by its own name: what is loaded later comes from the same one.
sys.path.insert(0, os.path.realpath(os.path.join(os.path.dirname(os.path.realpath(__file__)), {current!r})))
from {module} import main

sys.exit(main())
"""


def launcher(path: Path, *, interpreter: Path, current: Path, module: str) -> bytes:
    """Text of the program ``path`` that runs ``main`` of the module, from where the link ``current`` leads. Raises BadRequest for an impossible interpreter."""
    if len(str(interpreter)) > _LONGEST_INTERPRETER or not str(interpreter).isascii() or any(c.isspace() for c in str(interpreter)):
        raise BadRequest(f"the interpreter {interpreter} cannot be named in the first line of a program", hint="run this with /usr/bin/python3")
    return _TEXT.format(interpreter=interpreter, current=os.path.relpath(current, path.parent), module=module).encode()
