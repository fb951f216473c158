"""What a failed change leaves on a machine's record."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from ..model.records import VMRecord, VMState
from .context import Services


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
