"""What a registry says when it wants to know who asks: the WWW-Authenticate header (RFC 9110, section 11; RFC 6750)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_LONGEST: Final = 8192
_TOKEN: Final = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"  # noqa: S105 - a word of the grammar
_SCHEME: Final = re.compile(rf"({_TOKEN})(?:[ \t]+|\Z|(?=,))")
_PARAMETER: Final = re.compile(rf'({_TOKEN})[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|({_TOKEN}))')
_BETWEEN: Final = re.compile(r"[ \t,]*")


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way to prove it. Scheme and names of parameters are lower case."""

    scheme: str
    parameters: dict[str, str]


def parse_challenges(untrusted_headers: list[str]) -> list[Challenge]:
    """The challenges in these headers, in their order; what is not understood ends its header."""
    return [challenge for header in untrusted_headers if len(header) <= _LONGEST for challenge in _parse(header)]


def _parse(untrusted: str) -> list[Challenge]:
    found: list[Challenge] = []
    position = _skip(untrusted, 0)
    while position < len(untrusted):
        if found and (parameter := _PARAMETER.match(untrusted, position)):
            value = parameter[3] if parameter[2] is None else re.sub(r"\\(.)", r"\1", parameter[2])
            found[-1].parameters.setdefault(parameter[1].lower(), value)
            position = _skip(untrusted, parameter.end())
        elif scheme := _SCHEME.match(untrusted, position):
            found.append(Challenge(scheme[1].lower(), {}))
            position = _skip(untrusted, scheme.end())
        else:
            break
    return found


def _skip(text: str, position: int) -> int:
    match = _BETWEEN.match(text, position)
    return match.end() if match else position
