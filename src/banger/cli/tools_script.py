"""The words that run a command with a workspace's tools: a small script of sh, which says what the agent would when the command cannot be started."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Final

from .session import NOT_EXECUTABLE_HINT, NOT_FOUND_HINT

_NAME: Final = "banger-exec"

_START: Final = rf"""
_banger_status=127 _banger_why='No such file or directory' _banger_hint={shlex.quote(NOT_FOUND_HINT)}
case "$1" in
*/*)
    [ -f "$1" ] && [ -x "$1" ] && exec "$@"
    [ -e "$1" ] && _banger_status=126 _banger_why='Permission denied' _banger_hint={shlex.quote(NOT_EXECUTABLE_HINT)};;
*)
    _banger_rest=$PATH:
    while [ -n "$_banger_rest" ]; do
        _banger_place=${{_banger_rest%%:*}} _banger_rest=${{_banger_rest#*:}}
        [ -f "${{_banger_place:-.}}/$1" ] && [ -x "${{_banger_place:-.}}/$1" ] && exec "$@"
    done;;
esac
printf 'banger: exec %s: %s\nhint: %s\n' "$1" "$_banger_why" "$_banger_hint" >&2
exit "$_banger_status"
"""
"""What the shell itself complains about would name this script, and a builtin of its own is no command."""

_WITH_MISE: Final = """
for _banger_mise in mise "$HOME/.local/bin/mise"; do
    if command -v "$_banger_mise" >/dev/null 2>&1; then
        export MISE_TRUSTED_CONFIG_PATHS={base}
        exec "$_banger_mise" exec -- /bin/sh -c {start} {name} "$@"
    fi
done
"""


def with_tools(base: str, words: Sequence[str]) -> tuple[str, ...]:
    """``words`` under ``mise exec`` where the guest has mise, with the configuration of the directory ``base`` trusted."""
    script = _WITH_MISE.format(base=shlex.quote(base), start=shlex.quote(_START), name=_NAME) + _START
    return ("/bin/sh", "-c", script, _NAME, *words)
