"""Manual pages from the tree of commands: roff as man(7) has it, one page per command, ``banger-vm-run(1)`` for ``banger vm run``."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from typing import Final

import click

from .. import __version__

SECTION: Final = "1"
_FILES: Final = (
    ("~/.config/banger/config.toml", "Settings of a user's own instance."),
    ("/etc/banger/config.toml", "Settings of the instance of an installed system (banger-system-install(1))."),
    ("/etc/banger/catalog.d/*.toml", "Images and kernels that the host's administrator adds."),
)
_ENVIRONMENT: Final = (
    ("BANGER_HOME", "Directory that holds a whole instance: configuration, state, cache and sockets."),
    ("BANGER_SOCKET", "API socket of the daemon to talk to, which is never started then."),
    ("BANGER_LOG_LEVEL", "debug, info, warning or error, for a daemon that is started."),
    ("NO_COLOR", "No colours."),
)


def manual_pages(root: click.Command) -> dict[str, bytes]:
    """Every page, compressed, by its file name such as ``banger-vm.1.gz``. The same words give the same bytes."""
    with click.Context(root, info_name="banger", **root.context_settings) as context:
        return {f"{_title(path)}.{SECTION}.gz": gzip.compress(_page(path, one).encode(), mtime=0) for path, one in _commands(context, ("banger",))}


def _commands(context: click.Context, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Context]]:
    yield path, context
    if isinstance(context.command, click.Group):
        for name in context.command.list_commands(context):
            command = context.command.get_command(context, name)
            if command is not None:
                with click.Context(command, info_name=name, parent=context) as inner:
                    yield from _commands(inner, (*path, name))


def _title(path: tuple[str, ...]) -> str:
    return "-".join(path)


def _page(path: tuple[str, ...], context: click.Context) -> str:
    command = context.command
    text = _paragraphs(command.help or command.get_short_help_str(200))
    first = re.split(r"(?<=[.:])\s", text[0], maxsplit=1)[0].rstrip(".:") if text else _title(path)
    lines = [
        f'.TH "{_escape(_title(path).upper())}" {SECTION} "" "banger {__version__}" "banger"',
        ".nh",
        ".SH NAME",
        f"{_escape(_title(path))} \\- {_escape(first)}",
        ".SH SYNOPSIS",
        f".B {_escape(' '.join(path))}",
        _line(" ".join(command.collect_usage_pieces(context))),
        ".SH DESCRIPTION",
    ]
    for paragraph in text:
        lines += [".PP", *map(_line, paragraph.splitlines())] if not paragraph.startswith("\b") else [".nf", *map(_line, paragraph.splitlines()[1:]), ".fi"]
    lines += [*_options(context), *_subcommands(path, context)]
    if len(path) == 1:
        lines += [*_definitions("FILES", _FILES), *_definitions("ENVIRONMENT", _ENVIRONMENT)]
    else:
        lines += [".SH SEE ALSO", f".BR {_escape(_title(path[:-1]))} ({SECTION})"]
    return "\n".join(lines) + "\n"


def _paragraphs(text: str) -> list[str]:
    return [paragraph for paragraph in re.split(r"\n\s*\n", text.strip()) if paragraph.strip()]


def _options(context: click.Context) -> list[str]:
    records = [parameter.get_help_record(context) for parameter in context.command.get_params(context)]
    return _definitions("OPTIONS", [record for record in records if record is not None and record[1]])


def _subcommands(path: tuple[str, ...], context: click.Context) -> list[str]:
    group = context.command
    if not isinstance(group, click.Group):
        return []
    lines = [".SH COMMANDS"]
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command is not None:
            lines += [".TP", f".BR {_escape(_title((*path, name)))} ({SECTION})", _line(command.get_short_help_str(200))]
    return lines


def _definitions(heading: str, entries: tuple[tuple[str, str], ...] | list[tuple[str, str]]) -> list[str]:
    lines = [f".SH {heading}"] if entries else []
    for term, meaning in entries:
        lines += [".TP", f".B {_escape(term)}", _line(meaning)]
    return lines


def _line(text: str) -> str:
    """Text of a line of its own, which no request of roff begins."""
    escaped = _escape(text.strip())
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped


def _escape(text: str) -> str:
    return " ".join(text.split("\n")).replace("\\", "\\e").replace("-", "\\-").replace("`", "\\(ga")
