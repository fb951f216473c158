"""The server's UDP side."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Final, cast

from .message import Query
from .responder import Responder

log = logging.getLogger(__name__)

_MAX_QUERY: Final = 4096

Address = tuple[str, int]


class Datagrams(asyncio.DatagramProtocol):
    """One socket. What cannot be sent at once is dropped: clients ask again."""

    def __init__(self, responder: Responder) -> None:
        self._responder = responder
        self._transport: asyncio.DatagramTransport | None = None
        self._asking: set[asyncio.Task[None]] = set()
        self._full = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)  # what asyncio gives is no subclass before Python 3.12

    def datagram_received(self, data: bytes, addr: Address) -> None:
        untrusted = data
        if len(untrusted) > _MAX_QUERY or addr[1] == 0:
            return
        answer = self._responder.answer(untrusted, addr[0])
        if isinstance(answer, Query):
            task = asyncio.create_task(self._forward(answer, addr))
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)
        elif answer is not None:
            self._send(answer, addr)

    def error_received(self, exc: Exception) -> None:
        log.debug("an answer was not delivered", extra={"error": str(exc)})

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False

    def close(self) -> None:
        """Listen no more."""
        for task in self._asking:
            task.cancel()
        if self._transport is not None:
            self._transport.close()

    async def _forward(self, query: Query, addr: Address) -> None:
        self._send(await self._responder.forward(query, addr[0], stream=False), addr)

    def _send(self, answer: bytes, addr: Address) -> None:
        if self._transport is not None and not self._full and not self._transport.is_closing():
            self._transport.sendto(answer, addr)


async def serve_datagrams(sock: socket.socket, responder: Responder) -> Datagrams:
    """Serve on a bound, non-blocking UDP socket, which is closed with what is returned."""
    _, protocol = await asyncio.get_running_loop().create_datagram_endpoint(lambda: Datagrams(responder), sock=sock)
    return protocol
