"""Forwards: ports of this host that lead to ports of a machine, and how they are written."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from .errors import BadRequest

LOOPBACK: Final = "127.0.0.1"
MAX_FORWARDS: Final = 64
_LAST_PORT: Final = 0xFFFF
_HINT: Final = "write [BIND:]HOSTPORT:GUESTPORT, such as 8080:80 or 0.0.0.0:8080:80; an IPv6 address goes in brackets"
_BIND: Final = r"(?:(?:\[(?P<v6>[^\]]+)\]|(?P<v4>[0-9.]*\.[0-9.]*)):)?"
_FORWARD: Final = re.compile(_BIND + r"(?P<host>[0-9]{1,5}):(?P<guest>[0-9]{1,5})", re.ASCII)
_PLACE: Final = re.compile(_BIND + r"(?P<host>[0-9]{1,5})(?::[0-9]{1,5})?", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Forward:
    """TCP connections to ``bind``:``host_port`` of this host go to ``guest_port`` on the machine's loopback address."""

    host_port: int
    """0 = any that is free, where that is allowed."""
    guest_port: int
    bind: str = LOOPBACK

    @property
    def endpoint(self) -> str:
        """How it is reached: ``127.0.0.1:8080``, ``[::1]:8080``."""
        return f"[{self.bind}]:{self.host_port}" if ":" in self.bind else f"{self.bind}:{self.host_port}"

    def __str__(self) -> str:
        return f"{self.endpoint} -> {self.guest_port}"


def parse_forward(text: str) -> Forward:
    """``[BIND:]HOSTPORT:GUESTPORT``; raises BadRequest."""
    found = _FORWARD.fullmatch(text)
    if found is None:
        raise BadRequest(f"{text!r} is no forward", hint=_HINT)
    forward = Forward(bind=found["v6"] or found["v4"] or LOOPBACK, host_port=int(found["host"]), guest_port=int(found["guest"]))
    check_forwards((forward,), any_port=True)
    return forward


def without(forwards: Iterable[Forward], text: str) -> tuple[Forward, ...]:
    """``forwards`` but those at ``[BIND:]HOSTPORT`` (what ``--unpublish`` takes). Raises BadRequest when that is none of them."""
    forwards = tuple(forwards)
    found = _PLACE.fullmatch(text)
    if found is None:
        raise BadRequest(f"{text!r} is no port of this host", hint="write [BIND:]HOSTPORT, such as 8080")
    bind, port = found["v6"] or found["v4"] or "", int(found["host"])
    kept = tuple(one for one in forwards if one.host_port != port or bind not in ("", one.bind))
    if len(kept) == len(forwards):
        published = ", ".join(str(one) for one in forwards) or "nothing"
        raise BadRequest(f"{text} is not published", hint=f"published is: {published}")
    return kept


def check_forwards(forwards: Sequence[Forward], *, any_port: bool = False) -> None:
    """Raises BadRequest for an address or port that cannot be, the same port of this host twice, or too many. ``any_port``: host port 0 is allowed."""
    if len(forwards) > MAX_FORWARDS:
        raise BadRequest(f"{len(forwards)} forwards are too many", hint=f"at most {MAX_FORWARDS}")
    for one in forwards:
        _check_address(one.bind)
        if not (0 if any_port else 1) <= one.host_port <= _LAST_PORT or not 1 <= one.guest_port <= _LAST_PORT:
            raise BadRequest(f"{one.host_port}:{one.guest_port}: ports are 1 to {_LAST_PORT}", hint=_HINT)
    places = [(one.bind, one.host_port) for one in forwards if one.host_port]
    if twice := next((place for place in places if places.count(place) > 1), None):
        raise BadRequest(f"port {twice[1]} of {twice[0]} is given twice", hint="each port of this host leads to one port of the machine")


def _check_address(text: str) -> None:
    import ipaddress  # only needed where there is a forward

    try:
        if str(ipaddress.ip_address(text)) == text and "%" not in text:
            return
    except ValueError:
        pass
    raise BadRequest(f"{text!r} is no address of this host", hint="give an IP address in its usual form, such as 127.0.0.1, 0.0.0.0 or [::1]")
