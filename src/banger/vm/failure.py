"""What a failed change leaves on a machine's record."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from ..model.errors import BangerError
from ..model.records import VMRecord, VMState
from .context import Services

_INIT_ENDED: Final = re.compile(r"Attempted to kill init! exitcode=0x([0-9a-f]{8})")
"""The kernel's panic when process 1 ends (kernel/exit.c), with a status as wait(2) has it."""


def end_of_init(console: str) -> str:
    """How the image's init ended, when that is what the end of a console tells; "" otherwise."""
    found = _INIT_ENDED.findall(console)
    if not found:
        return ""
    status = int(found[-1], 16)
    return "its init ended " + (f"by signal {status & 0x7F}" if status & 0x7F else f"with status {status >> 8 & 0xFF}")


def with_error(record: VMRecord, error: BaseException) -> VMRecord:
    """The record that tells why its last change failed."""
    text = str(error) or ("cancelled" if isinstance(error, asyncio.CancelledError) else type(error).__name__)
    return replace(record, runtime=replace(record.runtime, last_error=text))


def failed_end(services: Services, record: VMRecord, error: BaseException) -> VMRecord:
    """A machine that a stop, kill or deletion has ended before it failed does not go on saying that it runs."""
    failed = with_error(record, error)
    return failed if record.state is not VMState.RUNNING or services.alive(record) else replace(failed, state=VMState.ERROR)


def failed_start(record: VMRecord, error: BaseException) -> VMRecord:
    """A machine that could not be started."""
    return replace(with_error(record, error), state=VMState.ERROR)


@contextmanager
def naming(record: VMRecord) -> Iterator[None]:
    """A failure of what is done meanwhile names the machine, which is there all the same."""
    try:
        yield
    except (BangerError, ExceptionGroup) as error:
        cause: BaseException = error
        while isinstance(cause, BaseExceptionGroup):  # the root cause comes first (vm.steps)
            cause = cause.exceptions[0]
        if isinstance(cause, BangerError):
            cause.vm = cause.vm or record.name
        raise
