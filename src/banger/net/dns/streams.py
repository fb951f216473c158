"""The server's TCP side: messages with their length before them, any number on a connection (RFC 7766)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections import Counter
from typing import Final

from .message import Query
from .responder import Responder

log = logging.getLogger(__name__)

IDLE_SECONDS: Final = 10.0
"""A connection on which no query comes, or whose client does not take its answers, is closed."""
MAX_CONNECTIONS: Final = 128
_MAX_QUERY: Final = 4096
_MAX_AT_ONCE: Final = 16
"""Queries of one connection for which others are being asked."""
_BACKLOG: Final = 128


class Streams:
    """A listening socket and its connections."""

    def __init__(self, responder: Responder, *, per_source: int, idle: float = IDLE_SECONDS) -> None:
        """``per_source``: connections of one address; ``idle``: seconds."""
        self._responder = responder
        self._per_source = per_source
        self._idle = idle
        self._server: asyncio.Server | None = None
        self._open: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def connections(self) -> int:
        """How many are open."""
        return self._open.total()

    async def start(self, sock: socket.socket) -> None:
        """Serve on a listening, non-blocking socket, which is closed with this."""
        self._server = await asyncio.start_server(self._accept, sock=sock, backlog=_BACKLOG, limit=_MAX_QUERY + 2)

    async def close(self) -> None:
        """Listen no more and end the connections."""
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        source: str = (writer.get_extra_info("peername") or ("",))[0]
        if self._open[source] >= self._per_source or self.connections >= MAX_CONNECTIONS:
            writer.transport.abort()
            return
        self._open[source] += 1
        task = asyncio.create_task(self._serve(reader, writer, source))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, source: str) -> None:
        asking: set[asyncio.Task[None]] = set()
        try:
            await self._converse(reader, writer, source, asking)
            await asyncio.gather(*asking)
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            log.debug("a client's connection ended", extra={"source": source, "error": str(error)})
        finally:
            for task in asking:
                task.cancel()
            await self._end(writer, source)

    async def _end(self, writer: asyncio.StreamWriter, source: str) -> None:
        """Let the client have what was written, but not for ever: until then it counts."""
        try:
            writer.close()
            async with asyncio.timeout(self._idle):
                await writer.wait_closed()
        except (OSError, TimeoutError) as error:
            log.debug("a client did not take its answers", extra={"source": source, "error": str(error)})
        finally:
            writer.transport.abort()
            self._open[source] -= 1
            if not self._open[source]:
                del self._open[source]

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, source: str, asking: set[asyncio.Task[None]]) -> None:
        """Until the client has no more to ask, breaks a rule, or is idle."""
        while (untrusted := await self._read(reader)) is not None:
            answer = self._responder.answer(untrusted, source)
            if answer is None:
                return
            if isinstance(answer, bytes):
                await self._send(writer, answer)
                continue
            if len(asking) >= _MAX_AT_ONCE:
                await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
            task = asyncio.create_task(self._forward(writer, answer, source))
            asking.add(task)
            task.add_done_callback(asking.discard)

    async def _read(self, reader: asyncio.StreamReader) -> bytes | None:
        """A message; None at the end, and when the client was idle for too long or sends what no query is."""
        try:
            async with asyncio.timeout(self._idle):
                length = int.from_bytes(await reader.readexactly(2), "big")
                return await reader.readexactly(length) if 0 < length <= _MAX_QUERY else None
        except (TimeoutError, asyncio.IncompleteReadError):
            return None

    async def _forward(self, writer: asyncio.StreamWriter, query: Query, source: str) -> None:
        answer = await self._responder.forward(query, source, stream=True)
        with contextlib.suppress(OSError, TimeoutError):
            await self._send(writer, answer)

    async def _send(self, writer: asyncio.StreamWriter, answer: bytes) -> None:
        writer.write(len(answer).to_bytes(2, "big") + answer)
        async with asyncio.timeout(self._idle):
            await writer.drain()
