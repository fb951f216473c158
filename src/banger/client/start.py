"""Starting the user's daemon on demand: however many first callers, one daemon."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from pathlib import Path
from typing import Final

from ..host.own_program import own_program
from ..host.paths import Layout, private_directory
from ..model.errors import DaemonUnreachable
from ..model.records import ProcessIdentity
from .discovery import Endpoint

START_DEADLINE: Final = 30.0
"""Seconds from spawn to a connectable socket; a loaded or emulated host takes a few."""
_INTERVAL: Final = 0.02
_PATHS: Final = ("BANGER_HOME", "HOME", "DOCKER_CONFIG", "REGISTRY_AUTH_FILE")
_LAST_CHANCE: Final = 2.0
"""Seconds in which another daemon, the reason why ours gave up, may still open its socket."""


def daemon_command() -> list[str]:
    """The daemon of this very installation."""
    return [*own_program("bangerd")]


def try_open(endpoint: Endpoint) -> socket.socket | None:
    """A connection to the API socket, or None when nobody listens (a socket file left by a killed daemon refuses)."""
    try:
        return endpoint.open(endpoint.api)
    except (FileNotFoundError, ConnectionRefusedError):
        return None


def start_daemon(layout: Layout) -> socket.socket:
    """Start the daemon of ``layout`` unless another caller just did, and connect to it.

    Raises Unauthorized when a directory is not private, DaemonUnreachable with the end of the daemon's log when it does not come up.
    """
    from ..host.locks import locked  # brings asyncio, which only the first call of the day needs

    endpoint = Endpoint.of(layout)
    private_directory(layout.runtime)
    private_directory(layout.state)
    try:
        with locked(layout.daemon_start_lock, deadline=START_DEADLINE * 2):
            return try_open(endpoint) or _spawn(endpoint, layout)
    except TimeoutError:
        raise DaemonUnreachable("another command is still starting the daemon", hint=f"see {layout.daemon_log}") from None


def _spawn(endpoint: Endpoint, layout: Layout) -> socket.socket:
    from ..host.run import spawn

    offset = layout.daemon_log.stat().st_size if layout.daemon_log.exists() else 0
    daemon = spawn(daemon_command(), output=layout.daemon_log, env=_environment(), cwd=Path("/"))
    sock = _wait(endpoint, daemon)
    if sock is None:
        reason = _reason(layout.daemon_log, offset)
        raise DaemonUnreachable(f"the daemon did not start: {reason}", hint=f"run `bangerd` in the foreground, or see {layout.daemon_log}")
    return sock


def _environment() -> dict[str, str]:
    """What the daemon must share with its caller to mean the same instance and find the same programs."""
    kept = {name: value for name, value in os.environ.items() if name.startswith(("BANGER_", "XDG_"))}
    # The daemon's working directory is /, so what the caller meant relative to its own has to be spelled out.
    kept |= {name: str(Path(os.environ[name]).absolute()) for name in _PATHS if os.environ.get(name)}
    return kept | {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}


def _wait(endpoint: Endpoint, daemon: ProcessIdentity) -> socket.socket | None:
    """A connection as soon as there can be one; None when the daemon ended or took too long."""
    until = time.monotonic() + START_DEADLINE
    ended = False
    with _Child(daemon) as child:
        while time.monotonic() < until:
            if sock := try_open(endpoint):
                return sock
            if child.ended(_INTERVAL) and not ended:
                ended, until = True, min(until, time.monotonic() + _LAST_CHANCE)
    return None


class _Child:
    """Watches a process that we spawned, and reaps it when it ends while we look."""

    def __init__(self, process: ProcessIdentity) -> None:
        self._pid = process.pid
        self._fd = os.pidfd_open(process.pid)
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLIN)
        self._ended = False

    def ended(self, timeout: float) -> bool:
        """Whether it has ended; waits for ``timeout`` seconds to see it happen."""
        if self._ended:
            time.sleep(timeout)
        elif self._poll.poll(timeout * 1000):
            self._ended = True
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self._pid, os.WNOHANG)
        return self._ended

    def __enter__(self) -> _Child:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def _reason(log: Path, offset: int) -> str:
    """What the daemon said since ``offset``: the messages of its JSON lines, other lines as they are; the last few."""
    import json

    from ..host.files import tail

    try:
        written = log.stat().st_size - offset
    except FileNotFoundError:
        written = 0

    def message(line: str) -> str:
        try:
            return str(json.loads(line)["message"])
        except (ValueError, KeyError, TypeError):
            return line

    lines = [message(line) for line in tail(log, max(0, min(written, 4000))).splitlines() if line.strip()]
    return "\n".join(lines[-10:]) or "it said nothing within the time it has"
