"""``attach.sock``: a connection that names a token becomes a guest's stream, or holds a lease (docs/agent-protocol.md, section 7)."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from typing import Final, Protocol

import msgspec

from ..api.codec import encode_line
from ..api.types import ErrorBody
from ..host.sockets import peer_of
from ..model.errors import BadRequest, Unauthorized
from .failures import describe
from .tokens import Tokens

log = logging.getLogger(__name__)

HANDSHAKE_SECONDS: Final = 10.0
MAX_LINE: Final = 4096


class Session(Protocol):
    """What a connection is for once its token was accepted."""

    def received(self, untrusted: bytes) -> None:
        """Bytes from the client."""

    def ended(self) -> None:
        """The client has gone."""

    def stop(self, why: str) -> None:
        """The daemon is about to close the connection."""


Opener = Callable[[asyncio.Transport], Session]
"""What a token stands for. Raises BangerError when it cannot be opened any more."""


class _Hello(msgspec.Struct, forbid_unknown_fields=True):
    token: str


class _Answer(msgspec.Struct, omit_defaults=True):
    ok: bool
    error: ErrorBody | None = None


_hello = msgspec.json.Decoder(_Hello)


class AttachServer:
    """Serves ``attach.sock``."""

    def __init__(self, tokens: Tokens[Opener], *, handshake_seconds: float = HANDSHAKE_SECONDS) -> None:
        self.tokens = tokens
        self.handshake_seconds = handshake_seconds
        self.connections: set[_Connection] = set()
        self._server: asyncio.Server | None = None

    async def start(self, sock: socket.socket) -> None:
        """Serve this listening socket, which is closed by ``close``."""
        self._server = await asyncio.get_running_loop().create_unix_server(lambda: _Connection(self), sock=sock)

    def stop_listening(self) -> None:
        """Accept no new connection."""
        if self._server is not None:
            self._server.close()

    async def close(self, why: str) -> None:
        """End all connections, telling streams ``why``."""
        self.stop_listening()
        self.tokens.close()
        for connection in list(self.connections):
            connection.stop(why)
        # One turn of the loop sends what a socket takes at once; who does not read gets no more.
        await asyncio.sleep(0)
        for connection in list(self.connections):
            connection.abort()
        await asyncio.sleep(0)  # connection_lost is called in the next turn


class _Connection(asyncio.Protocol):
    """One connection: a line with the token first, then what its session makes of it."""

    def __init__(self, server: AttachServer) -> None:
        self._server = server
        self._line = bytearray()
        self._session: Session | None = None
        self._refused = False
        self._transport: asyncio.Transport
        self._timer: asyncio.TimerHandle

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._server.connections.add(self)
        self._timer = asyncio.get_running_loop().call_later(self._server.handshake_seconds, transport.close)

    def data_received(self, data: bytes) -> None:
        if self._session is not None:
            self._session.received(data)
        elif not self._refused:
            self._line += data
            self._handshake()

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        self._server.connections.discard(self)
        if self._session is not None:
            self._session.ended()

    def stop(self, why: str) -> None:
        """Say goodbye."""
        if self._session is not None:
            self._session.stop(why)
        self._transport.close()

    def abort(self) -> None:
        """Close without sending the rest."""
        self._transport.abort()

    def _handshake(self) -> None:
        end = self._line.find(b"\n", 0, MAX_LINE)
        if end < 0 and len(self._line) < MAX_LINE:
            return
        try:
            opener = self._claim(bytes(self._line[: max(end, 0)]))
            session = opener(self._transport)
        except Exception as error:  # noqa: BLE001 - describe() logs it, and no client may bring the daemon down
            self._refuse(error)
            return
        self._timer.cancel()
        self._transport.write(encode_line(_Answer(ok=True)))
        self._session = session
        if rest := bytes(self._line[end + 1 :]):
            session.received(rest)
        self._line.clear()

    def _claim(self, untrusted_line: bytes) -> Opener:
        check_peer(peer_of(self._transport.get_extra_info("socket")).uid)
        try:
            untrusted_token = _hello.decode(untrusted_line).token
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise BadRequest('the first line must be {"token": "..."}') from error
        opener = self._server.tokens.claim(untrusted_token)
        if opener is None:
            raise Unauthorized("this token is unknown, was used already, or has expired", hint="ask for a new one; it works once and not for long")
        return opener

    def _refuse(self, error: BaseException) -> None:
        """Say why and let the client close (or the timer): closing over bytes it is still sending would lose the answer."""
        self._refused = True
        self._line.clear()
        self._transport.write(encode_line(_Answer(ok=False, error=describe(error, ""))))
        self._transport.write_eof()


def check_peer(uid: int) -> None:
    """Raises Unauthorized unless the peer is this daemon's own user, or root."""
    if uid not in (os.getuid(), 0):
        raise Unauthorized(f"this daemon serves uid {os.getuid()}, not uid {uid}", hint="use a daemon of your own: unset BANGER_SOCKET and BANGER_HOME")
