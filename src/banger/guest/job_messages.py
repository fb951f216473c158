"""Requests and results of the operations on jobs (docs/agent-protocol.md, operations 15 to 18)."""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from ..model.errors import BadRequest, GuestError
from .fields import Fields, pack, text, u8, u32, u64
from .messages import MAX_REQUEST, exec_request
from .outcome import EXITED, KILLED, ExecOutcome

MAX_JOBS: Final = 256
MAX_LABEL: Final = 1000
"""Bytes of a label that are sent; lists show 80."""
_ID: Final = re.compile(r"[a-z0-9-]{1,64}")
_MAX_SIGNAL: Final = 64

JobState = Literal["running", "ended", "lost"]
_STATES: Final[tuple[JobState, ...]] = ("running", "ended", "lost")
Which = Literal["both", "stdout", "stderr", "none"]
_WHICH: Final[dict[Which, int]] = {"none": 0, "stdout": 1, "stderr": 2, "both": 3}


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestJob:
    """A job of a guest. Times are seconds since 1970 by the guest's clock; sizes are bytes."""

    id: str
    pid: int
    state: JobState
    """``lost``: the machine went down while it ran."""
    exit_status: int | None
    """As a shell would show it, once it has ended."""
    started_at: float
    ended_at: float | None
    command: str
    """Its words, or their beginning."""
    user: str
    stdout_bytes: int
    stderr_bytes: int
    truncated: bool


def check_job_id(job_id: str) -> str:
    """``job_id`` itself. Raises BadRequest."""
    if not _ID.fullmatch(job_id):
        raise BadRequest(f"{job_id[:80]!r} is not the id of a job", hint="banger vm jobs VM lists them; an id has 1 to 64 of a-z, 0-9 and -")
    return job_id


def job_start_request(*, id: str, argv: Sequence[str], env: Mapping[str, str], cwd: str, user: str, make_cwd: bool = False, label: str = "") -> bytes:
    """Request of ``job_start``. ``label`` (default: the words) is what lists show; its beginning is kept. Raises BadRequest as ``exec_request`` does."""
    if not argv:
        raise BadRequest("a job needs a command")
    request = exec_request(argv=argv, env=env, cwd=cwd, user=user, tty=False, rows=0, columns=0, stdin=False, make_cwd=make_cwd)
    request += pack((30, text(check_job_id(id))), (32, text(label)[:MAX_LABEL]))
    if len(request) > MAX_REQUEST:
        raise BadRequest(f"the command and its environment have {len(request)} bytes, at most {MAX_REQUEST} can be passed", hint="put long data into a file")
    return request


def job_list_request(id: str = "") -> bytes:
    """Request of ``job_list``: one job, or all."""
    return pack((30, text(check_job_id(id)))) if id else b""


def job_signal_request(*, id: str, number: int) -> bytes:
    """Request of ``job_signal``."""
    if not 1 <= number <= _MAX_SIGNAL:
        raise BadRequest(f"{number} is not the number of a signal")
    return pack((30, text(check_job_id(id))), (17, u32(number)))


def job_output_request(*, id: str, which: Which = "both", offset: int = 0, follow: bool = False) -> bytes:
    """Request of ``job_output``: ``both`` comes on channels 1 and 2, one of them on channel 1; ``none`` only waits for the end."""
    if offset < 0:
        raise BadRequest("an offset cannot be negative")
    return pack((30, text(check_job_id(id))), (17, u8(_WHICH[which])), (18, u64(offset)), (19, u8(follow)))


def signal_number(name: str) -> int:
    """The number of ``TERM``, ``SIGTERM`` or ``15``. Raises BadRequest."""
    if name.isascii() and name.isdigit() and len(name) <= 2:
        return int(name)
    word = name.upper().removeprefix("SIG")
    try:
        return int(signal.Signals[f"SIG{word}"])
    except KeyError:
        raise BadRequest(f"there is no signal {name[:20]!r}", hint="for example TERM, INT or KILL") from None


def decode_job_started(fields: Fields) -> int | ExecOutcome:
    """RESULT of ``job_start``: the pid, or why the command could not be started."""
    if fields.has(19):
        return fields.u32(19)
    return ExecOutcome(fields.u8(16), fields.u32(17), fields.text(18, ""))


def decode_jobs(fields: Fields) -> tuple[GuestJob, ...]:
    """RESULT of ``job_list``, oldest first."""
    return tuple(sorted((_decode_job(one) for one in fields.nested(16, at_most=MAX_JOBS)), key=lambda job: job.started_at))


def _decode_job(fields: Fields) -> GuestJob:
    untrusted_state = fields.u8(3)
    if untrusted_state >= len(_STATES):
        raise GuestError(f"malformed message from the guest: unknown state {untrusted_state} of a job")
    state = _STATES[untrusted_state]
    kind, number = fields.u8(4, EXITED), fields.u32(5, 0)
    if kind > KILLED or number > 255:
        raise GuestError(f"malformed message from the guest: a job cannot end as ({kind}, {number})")
    return GuestJob(
        id=fields.text(1, limit=64),
        pid=fields.u32(2),
        state=state,
        exit_status=ExecOutcome(kind, number).exit_status if state == "ended" else None,
        started_at=fields.i64(7) / 1e9,
        ended_at=fields.i64(8) / 1e9 if state == "ended" else None,
        command=fields.text(9),
        user=fields.text(10, "", limit=64),
        stdout_bytes=fields.u64(11, 0),
        stderr_bytes=fields.u64(12, 0),
        truncated=bool(fields.u8(13, 0)),
    )
