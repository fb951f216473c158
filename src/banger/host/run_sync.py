"""``host.run`` for callers without an event loop: waits for a program and returns all of its output."""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import signal
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO

from ..model.errors import CommandFailed
from .run import Completed, clean_environment, command_failed, find_tool

log = logging.getLogger(__name__)


def run_sync(
    argv: Sequence[str | Path],
    *,
    deadline: float,
    stdin: bytes | IO[bytes] | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    allowed: Iterable[int] = (0,),
) -> Completed:
    """Run a program of the host to its end; ``stdin`` is bytes, or a file with a descriptor. ``deadline`` is in seconds.

    All of its output is kept: only for programs whose output we asked for and can hold. Raises CommandFailed when the status is not in ``allowed`` or the
    deadline passes; the program's whole session is killed then, and when we are interrupted.
    """
    words = [str(find_tool(str(argv[0])) if "/" not in str(argv[0]) else argv[0]), *map(str, argv[1:])]
    log.debug("run", extra={"command": shlex.join(words)})
    given = subprocess.DEVNULL if stdin is None else subprocess.PIPE if isinstance(stdin, bytes) else stdin
    with subprocess.Popen(  # noqa: S603
        words, stdin=given, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=clean_environment(env), cwd=cwd, start_new_session=True
    ) as process:
        try:
            out, err = process.communicate(stdin if isinstance(stdin, bytes) else None, timeout=deadline)
        except subprocess.TimeoutExpired:
            _kill_session(process)
            raise CommandFailed(f"{shlex.join(words)} did not finish within {deadline:g} s") from None
        except BaseException:
            _kill_session(process)
            raise
    if process.returncode not in set(allowed):
        raise command_failed(words, process.returncode, err or out)
    return Completed(tuple(words), process.returncode, out, err)


def _kill_session(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
