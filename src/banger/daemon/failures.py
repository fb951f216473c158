"""From any exception to the one error that a client is told."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from ..api.codec import error_body
from ..api.types import ErrorBody
from ..model.errors import BangerError, Cancelled

log = logging.getLogger(__name__)

_STATUS: Final = {
    "bad_request": 400,
    "bad_version": 400,
    "unauthorized": 403,
    "not_found": 404,
    "unknown_method": 404,
    "already_exists": 409,
    "not_running": 409,
    "not_stopped": 409,
}


def http_status(code: str) -> int:
    """HTTP status of an error code."""
    return _STATUS.get(code, 500)


def describe(error: BaseException, op_id: str) -> ErrorBody:
    """What the client is told. What nobody expected goes to the log with its traceback, and to the client as an internal error."""
    cause, others = _root_cause(error)
    if isinstance(cause, asyncio.CancelledError):
        cause = Cancelled("the operation was cancelled")
    if not isinstance(cause, BangerError):
        log.error("unexpected failure", exc_info=error)
        cause = BangerError(f"internal error: {type(cause).__name__}", hint="the daemon's log has the details (banger daemon status shows where it is)")
    elif others:
        log.error("failed, and so did undoing it", exc_info=error)
    else:
        log.info("refused or failed", extra={"code": cause.code, "error": cause.message})
    return error_body(cause, op_id)


def _root_cause(error: BaseException) -> tuple[BaseException, int]:
    """The first leaf of an exception group, which is the root cause by convention of vm.steps, and how many leaves there are beside it."""
    if not isinstance(error, BaseExceptionGroup):
        return error, 0
    cause, _ = _root_cause(error.exceptions[0])
    return cause, _leaves(error) - 1


def _leaves(error: BaseException) -> int:
    return sum(map(_leaves, error.exceptions)) if isinstance(error, BaseExceptionGroup) else 1
