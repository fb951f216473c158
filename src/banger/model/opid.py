"""The op id: one id that follows a request from the terminal to the kernel call."""

from __future__ import annotations

import re
import secrets
from contextvars import ContextVar
from typing import Final

OP_ID_PATTERN: Final = re.compile(r"op-[0-9a-f]{12}")

current_op_id: ContextVar[str] = ContextVar("current_op_id", default="")
"""Op id of the request this task works for; "" outside one."""


def new_op_id() -> str:
    """A fresh op id, ``op-`` and 12 hexadecimal digits."""
    return f"op-{secrets.token_hex(6)}"
