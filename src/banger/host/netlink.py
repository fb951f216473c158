"""rtnetlink by hand: requests that the kernel acknowledges, and dumps. What is asked with it is in ``links``.

Formats: rtnetlink(7), include/uapi/linux/{netlink,rtnetlink}.h. A request takes tens of microseconds where a run of ip(8) takes over a millisecond.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from types import TracebackType
from typing import Final, Self

REQUEST, ACK, REPLACE, EXCL, CREATE, DUMP = 0x1, 0x4, 0x100, 0x200, 0x400, 0x300
_ERROR, _DONE = 2, 3
_NESTED: Final = 0x8000
_HEADER: Final = struct.Struct("=IHHII")
_ATTRIBUTE: Final = struct.Struct("=HH")
_RECEIVE: Final = 256 * 1024


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded to four bytes."""
    return _ATTRIBUTE.pack(4 + len(value), kind) + value + bytes(-len(value) % 4)


def nested(kind: int, *inner: bytes) -> bytes:
    """An attribute made of attributes."""
    return attribute(kind | _NESTED, b"".join(inner))


def attributes(data: bytes) -> dict[int, bytes]:
    """Attributes by kind; of two of a kind the last."""
    found: dict[int, bytes] = {}
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        found[kind & 0x3FFF] = data[4:length]
        data = data[max(4, (length + 3) & ~3) :]
    return found


class Netlink:
    """A route socket of the network namespace that this process is in. Not for two threads at once."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._socket.bind((0, 0))
        self._socket.settimeout(30)
        self._sequence = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def request(self, message: int, body: bytes, flags: int = 0) -> bytes:
        """Ask, and wait until it is done; returns the body of the object that was asked for, "" when none comes. Raises OSError with the kernel's errno."""
        self._send(message, body, REQUEST | ACK | flags)
        found = b""
        for kind, payload in self._replies():
            if kind == _ERROR:
                return found
            found = payload
        return found

    def dump(self, message: int, body: bytes) -> list[bytes]:
        """Bodies of all objects that match. Raises OSError, also (EINTR) when they changed meanwhile."""
        self._send(message, body, REQUEST | DUMP)
        return [payload for _, payload in self._replies()]

    def _send(self, message: int, body: bytes, flags: int) -> None:
        self._sequence += 1
        self._socket.send(_HEADER.pack(_HEADER.size + len(body), message, flags, self._sequence, 0) + body)

    def _replies(self) -> Iterator[tuple[int, bytes]]:
        """Messages of the answer, until the acknowledgement (which is among them) or the end of a dump (which is not)."""
        while True:
            data = self._socket.recv(_RECEIVE)
            while data:
                length, kind, _, sequence, _ = _HEADER.unpack_from(data)
                payload, data = data[_HEADER.size : length], data[(length + 3) & ~3 :]
                if sequence != self._sequence:
                    continue
                if kind in {_ERROR, _DONE}:
                    status = int(struct.unpack_from("=i", payload)[0]) if len(payload) >= 4 else 0
                    if status:
                        raise OSError(-status, os.strerror(-status))
                    if kind == _ERROR:
                        yield kind, b""
                    return
                yield kind, payload
