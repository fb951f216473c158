"""The resolvers of this host, as resolv.conf(5) names them, read again when the file has changed."""

from __future__ import annotations

import logging
import socket
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

log = logging.getLogger(__name__)

RESOLV_CONF: Final = Path("/etc/resolv.conf")
_PORT: Final = 53
_MAX_SERVERS: Final = 3
"""MAXNS of resolv.conf(5)."""


@dataclass(frozen=True, slots=True)
class Upstream:
    """A resolver to ask."""

    family: int
    where: tuple[Any, ...]
    """Address as the socket calls take it: host, port, and for IPv6 flow and scope."""
    address: str
    """With the scope of a link-local one."""


class HostResolvers:
    """Called, it says which resolvers the host has now."""

    def __init__(self, path: Path = RESOLV_CONF, *, without: Collection[str] = ()) -> None:
        """``without``: addresses of our own, which must not be asked."""
        self._path = path
        self._without = without
        self._stamp: tuple[int, int] | None = None
        self._found: Sequence[Upstream] = ()

    def __call__(self) -> Sequence[Upstream]:
        """At most three; none when the file cannot be read."""
        try:
            status = self._path.stat()
            stamp = (status.st_mtime_ns, status.st_ino)
            if stamp != self._stamp:
                self._found, self._stamp = self._read(), stamp
        except OSError as error:
            if self._found:
                log.warning("this host's resolvers are not known any more", extra={"path": str(self._path), "error": str(error)})
            self._found, self._stamp = (), None
        return self._found

    def _read(self) -> Sequence[Upstream]:
        text = self._path.read_text(errors="replace")
        words = [line.split() for line in text.splitlines()]
        named = [word[1] for word in words if len(word) > 1 and word[0] == "nameserver" and word[1] not in self._without]
        return [upstream for upstream in map(upstream_at, named) if upstream is not None][:_MAX_SERVERS]


def upstream_at(address: str, port: int = _PORT) -> Upstream | None:
    """The resolver at this address; None when it is no address, or one of a link that is not there."""
    try:
        family, _, _, _, where = socket.getaddrinfo(address, port, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST)[0]
    except (OSError, UnicodeError):
        return None
    return Upstream(family, where, address)
