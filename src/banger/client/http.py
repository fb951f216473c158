"""Just enough HTTP/1.1 to talk to our own daemon over a unix socket. One request per connection.

``http.client`` would do, but its import (ssl, email) costs 15 ms of the 100 that a whole ``vm exec`` may take.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final

from ..host.sockets import peer_of
from ..model.errors import DaemonUnreachable

_PIECE_LIMIT: Final = 16 * 1024 * 1024
_HEADER_LIMIT: Final = 100


class Response:
    """A reply whose body is still to be read, once, by ``read`` or ``lines``. Owns the socket: use it in a ``with`` statement."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._file: BinaryIO = sock.makefile("rb")
        try:
            self.status, self.headers = self._head()
        except BaseException:
            self.close()
            raise

    def read(self) -> bytes:
        """The whole body."""
        return b"".join(self._pieces())

    def lines(self) -> Iterator[bytes]:
        """The lines of the body as they arrive, without their ends."""
        rest = b""
        for piece in self._pieces():
            *whole, rest = (rest + piece).split(b"\n")
            yield from whole
        if rest:
            yield rest

    def close(self) -> None:
        self._file.close()
        self._sock.close()

    def __enter__(self) -> Response:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _head(self) -> tuple[int, dict[str, str]]:
        words = self._line().split(maxsplit=2)
        if len(words) < 2 or not words[0].startswith("HTTP/1.") or not words[1].isdigit():
            raise _foreign(self._sock)
        headers: dict[str, str] = {}
        while line := self._line():
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
            if len(headers) > _HEADER_LIMIT:
                raise _foreign(self._sock)
        return int(words[1]), headers

    def _line(self) -> str:
        line = self._file.readline(65536)
        if not line.endswith(b"\n"):
            raise _cut_off()
        return line.decode("latin-1").rstrip("\r\n")

    def _pieces(self) -> Iterator[bytes]:
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            while size := self._size(self._line().partition(";")[0], base=16):
                yield self._exactly(size)
                self._line()
        elif "content-length" in self.headers:
            yield self._exactly(self._size(self.headers["content-length"], base=10))
        else:
            while piece := self._file.read1(65536):  # type: ignore[attr-defined]  # makefile("rb") gives a BufferedReader
                yield piece

    def _size(self, text: str, *, base: int) -> int:
        try:
            return int(text, base)
        except ValueError:
            raise _foreign(self._sock) from None

    def _exactly(self, size: int) -> bytes:
        if not 0 <= size <= _PIECE_LIMIT:
            raise DaemonUnreachable(f"the daemon announces a piece of {size} bytes")
        data = self._file.read(size)
        if len(data) != size:
            raise _cut_off()
        return data


def exchange(sock: socket.socket, method: str, target: str, headers: Mapping[str, str], body: bytes | None) -> Response:
    """Send one request on a fresh connection, which then belongs to the Response.

    Raises DaemonUnreachable when the other side hangs up before a whole head has come back.
    """
    head = [f"{method} {target} HTTP/1.1", "Host: banger", "Connection: close", *(f"{name}: {value}" for name, value in headers.items())]
    if body is not None:
        head += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    try:
        # A daemon that refuses a body hangs up before it has read it all; the reply that says why is already there.
        with suppress(BrokenPipeError, ConnectionResetError):
            sock.sendall("\r\n".join(head).encode("ascii") + b"\r\n\r\n" + (body or b""))
        return Response(sock)
    except (BrokenPipeError, ConnectionResetError):
        sock.close()
        raise _cut_off() from None
    except BaseException:
        sock.close()
        raise


def _foreign(sock: socket.socket) -> DaemonUnreachable:
    return DaemonUnreachable(f"what answers on the socket is not bangerd: {_who(sock)}", hint="end it, or use another BANGER_SOCKET or BANGER_HOME")


def _who(sock: socket.socket) -> str:
    """The process that listens, as far as it can be seen."""
    pid = peer_of(sock).pid
    try:
        name = Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    except OSError:
        return f"pid {pid}, which has ended"
    return f"{name} (pid {pid})"


def _cut_off() -> DaemonUnreachable:
    return DaemonUnreachable("the daemon hung up in the middle of a reply", hint="it may have been stopped; try again, and see its log if that repeats")
