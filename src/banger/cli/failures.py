"""Errors as the user sees them: ``banger: what happened``, ``hint: what to do``, the op id; and the exit status that goes with them.

With ``--json`` an error is one line on stderr, ``{"error": {"code", "message", "hint", "op_id", "vm"}}``, as the API's bodies and the batches' entries have it.

Statuses: 0 done, 1 failed, 2 wrong words, 130 interrupted. ``run``, ``exec`` and ``shell`` return the command's own and use 125 when banger itself
failed, as docker does.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from typing import Any, Final

import click

from ..model.errors import BadRequest, BangerError, Cancelled
from .style import dim, plain

FAILED: Final = 1
WRONG_WORDS: Final = 2
BANGER_FAILED: Final = 125
INTERRUPTED: Final = 130

_REPORT_TO: Final = "this is a bug in banger: please report it with the output of the same command under BANGER_DEBUG=1"


class SessionCommand(click.Command):
    """A command whose exit status belongs to what runs in the machine: banger's own failures are 125, wrong words too.

    Words after ``--`` are the command to run and are left alone; ``ctx.meta["command"]`` has them, or None without a ``--``.
    """

    def make_context(self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any) -> click.Context:
        try:
            return super().make_context(info_name, args, parent, **extra)
        except (click.UsageError, BangerError) as error:
            report_any(error, as_json=json_wanted(args))
            raise click.exceptions.Exit(BANGER_FAILED) from error

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        command: tuple[str, ...] | None = None
        if "--" in args:
            mark = args.index("--")
            args, command = args[:mark], tuple(args[mark + 1 :])
        ctx.meta["command"] = command
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            report_any(error, as_json=ctx.params.get("as_json", False))
            raise click.exceptions.Exit(BANGER_FAILED) from error


def command_words() -> tuple[str, ...] | None:
    """The words after ``--`` of the running SessionCommand; None when there was no ``--``."""
    words: tuple[str, ...] | None = click.get_current_context().meta["command"]
    return words


def json_wanted(words: Sequence[str]) -> bool:
    """Whether ``--json`` is among banger's own words, those before ``--``: known also when they cannot be parsed."""
    own = words[: words.index("--")] if "--" in words else words
    return "--json" in own


def report_error(error: BangerError, *, about: str = "", as_json: bool = False) -> None:
    """Say on stderr what happened and what to do. ``about`` names the target when there are several."""
    if as_json:
        from ..api.codec import encode_error, error_body

        click.echo(encode_error(error_body(error, _own_op_id())), err=True)
        return
    click.echo(plain(f"banger: {about + ': ' if about else ''}{error.message}"), err=True)
    if error.hint:
        click.echo(plain(f"hint: {error.hint}"), err=True)
    click.echo(dim(f"({plain(error.op_id or _own_op_id())})", sys.stderr), err=True)


def _own_op_id() -> str:
    """An id for a failure that never became a request, so that every report of a failure can be told from all others."""
    from ..model.opid import new_op_id

    return new_op_id()


def report_any(error: BaseException, *, as_json: bool = False) -> int:
    """Tell the user about whatever ended the command; returns the exit status. SystemExit and its like go through."""
    if isinstance(error, BangerError):
        report_error(error, as_json=as_json)
        return status_of(error)
    if isinstance(error, click.UsageError):
        return _report_usage(error, as_json=as_json)
    if isinstance(error, click.exceptions.Exit):
        return error.exit_code
    if isinstance(error, (KeyboardInterrupt, click.Abort)):
        report_error(Cancelled("interrupted", op_id=getattr(error, "op_id", "")), as_json=True) if as_json else click.echo("banger: interrupted", err=True)
        return INTERRUPTED
    if isinstance(error, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or the interpreter complains when it flushes stdout at its end
        return FAILED
    if not isinstance(error, Exception):
        raise error
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        report_error(BangerError(f"cannot write the output: {error.strerror}", hint="free some space where stdout goes"), as_json=as_json)
        return FAILED
    _report_bug(error, as_json=as_json)
    return FAILED


def status_of(error: BangerError) -> int:
    """Exit status of a command that ends with this error."""
    return WRONG_WORDS if isinstance(error, BadRequest) else FAILED


def _report_bug(error: Exception, *, as_json: bool) -> None:
    message = f"internal error: {type(error).__name__}: {error}"
    if as_json:
        report_error(BangerError(message, hint=_REPORT_TO), as_json=True)
    else:
        click.echo(plain(f"banger: {message}"), err=True)
        click.echo(_REPORT_TO, err=True)
    if os.environ.get("BANGER_DEBUG") == "1":
        import traceback

        traceback.print_exception(error)


def _report_usage(error: click.UsageError, *, as_json: bool) -> int:
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return WRONG_WORDS
    if as_json:
        hint = f"see `{error.ctx.command_path} --help`" if error.ctx is not None else ""
        report_error(BadRequest(error.format_message(), hint=hint), as_json=True)
        return WRONG_WORDS
    click.echo(plain(f"banger: {error.format_message()}"), err=True)
    if error.ctx is not None:
        click.echo(f"hint: see `{error.ctx.command_path} --help`", err=True)
    return WRONG_WORDS
