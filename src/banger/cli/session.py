"""A command in a machine with the caller's stdin, stdout, stderr, terminal and signals: what ``run``, ``exec`` and ``shell`` share.

A terminal is given to the command when stdin, stdout and stderr are all terminals (for a shell, stdin and stdout are enough); ``--tty`` and
``--no-tty`` decide otherwise. stdin is forwarded unless it is a terminal that the command does not get (``vm exec box -- cat file | less`` must
not steal the pager's keys); ``--stdin`` and ``--no-stdin`` decide otherwise.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import click

from ..api.types import Exec, StreamTicket
from ..client import Client
from ..model.errors import BadRequest, BangerError
from .failures import report_error
from .style import plain

F = TypeVar("F", bound=Callable[..., Any])

_FORWARDED: Final = ("TERM", "COLORTERM")

_NO_DIRECTORY: Final = "the directory to start in must exist in the guest and its user may enter it: name another with --workdir (--cwd)"
NOT_EXECUTABLE_HINT: Final = "it is there but cannot be run: check its mode and its format, and --user"
NOT_FOUND_HINT: Final = "nothing in the guest's PATH has that name: install it there, or give the whole path"

_OPTIONS: Final = (
    click.option("-t/-T", "--tty/--no-tty", "tty", default=None, help="Give it a terminal, or not (default: when all three streams are one)."),
    click.option("-i/-n", "--stdin/--no-stdin", "stdin", default=None, help="Forward stdin, or not (default: unless it is a terminal that is not given)."),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Streams:
    """What of the caller's the command gets. None = decide by looking."""

    tty: bool | None
    stdin: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """What to run: no ``argv`` = the user's login shell, or with ``start`` what the image starts."""

    argv: Sequence[str] = ()
    env: dict[str, str] = field(default_factory=dict)
    cwd: str = ""
    user: str = ""
    start: bool = False
    """As a container starts: after the image's entrypoint, or ``entrypoint``."""
    entrypoint: tuple[str, ...] | None = None


def stream_options(function: F) -> F:
    """``--tty`` and ``--stdin``."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


_PROCESS_OPTIONS: Final = (
    click.option("-e", "--env", "env", metavar="NAME=VALUE", multiple=True, help="Set a variable; NAME alone takes the caller's value."),
    click.option("-w", "--workdir", "--cwd", "cwd", default="", help="Directory to start in (default: the image's, else the user's home)."),
    click.option("-u", "--user", default="", help="User of the machine, by name or number, perhaps with :GROUP (default: the image's, else root)."),
)


def process_options(function: F) -> F:
    """``--env``, ``--workdir`` and ``--user``."""
    for option in reversed(_PROCESS_OPTIONS):
        function = option(function)
    return function


def environment(words: Sequence[str]) -> dict[str, str]:
    """Variables of ``--env``. Raises BadRequest."""
    env: dict[str, str] = {}
    for word in words:
        name, assigned, value = word.partition("=")
        if not name:
            raise BadRequest(f"--env {word!r} has no name", hint="write --env NAME=VALUE")
        if assigned:
            env[name] = value
        elif name in os.environ:
            env[name] = os.environ[name]
    return env


def run_session(client: Client, ref: str, process: Process, streams: Streams) -> int:
    """Run ``process`` in the machine ``ref`` and return its exit status."""
    from ..client.stream import run_stream
    from ..client.terminal import window_size

    tty = _wants_tty(streams.tty, shell=not process.argv)
    stdin = streams.stdin if streams.stdin is not None else tty or not os.isatty(0)
    rows, columns = window_size(1)
    env = {name: os.environ[name] for name in _FORWARDED if tty and name in os.environ} | process.env
    request = Exec(
        argv=tuple(map(sendable, process.argv)),
        env={sendable(name): sendable(value) for name, value in env.items()},
        cwd=sendable(process.cwd),
        user=sendable(process.user),
        tty=tty,
        rows=rows,
        columns=columns,
        stdin=stdin,
        start=process.start,
        entrypoint=None if process.entrypoint is None else tuple(map(sendable, process.entrypoint)),
    )
    ticket: StreamTicket = client.call("vm.exec", {"ref": ref}, request)
    with client.attach(ticket.token) as sock:
        ended = run_stream(sock, stdin=0 if stdin else None, stdout=1, stderr=2, tty=tty)
    if ended.message:
        report_error(not_started(ended.status, " ".join(ended.message.split()), client.last_op_id))
    return ended.status


def not_started(status: int, message: str, op_id: str) -> BangerError:
    """Why a command has not begun, and what to do about it. The guest's message starts with the step that failed."""
    hints = {126: _NO_DIRECTORY if message.startswith("chdir ") else NOT_EXECUTABLE_HINT, 127: NOT_FOUND_HINT}
    return BangerError(message, hint=hints.get(status, ""), op_id=op_id)


def _wants_tty(wish: bool | None, *, shell: bool) -> bool:
    if wish is not None:
        return wish
    return os.isatty(0) and os.isatty(1) and (shell or os.isatty(2))


def sendable(word: str) -> str:
    """``word`` itself. Words are text on their way to the daemon, so bytes that are not UTF-8 (PEP 383 surrogates) cannot go."""
    try:
        word.encode()
    except UnicodeEncodeError:
        raise BadRequest(f"{plain(word)!r} is not valid UTF-8", hint="pass such bytes through stdin or a file") from None
    return word
