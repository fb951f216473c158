"""Asks the host's resolvers for guests. Whatever becomes of that, the guest gets an answer, and the machines get on."""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from .message import Code, Query, is_answer, pass_on, write_answer, write_query
from .resolv_conf import Upstream

log = logging.getLogger(__name__)

ATTEMPT_SECONDS: Final = 1.5
"""For one server; three of them are less than the 5 s that resolv.conf(5) gives us."""
MAX_AT_ONCE: Final = 256
MAX_PER_SOURCE: Final = 32
_MAX_STREAM: Final = 65535


class Forwarder:
    """A socket, and with it a random port, and a random id for each question; no cache: the host's resolver has one."""

    def __init__(self, upstreams: Callable[[], Sequence[Upstream]], *, attempt_seconds: float = ATTEMPT_SECONDS) -> None:
        self._upstreams = upstreams
        self._attempt_seconds = attempt_seconds
        self._asking: Counter[str] = Counter()
        self._well: Upstream | None = None
        """The one that answered last."""
        self._failing = False

    async def ask(self, query: Query, source: str, *, stream: bool) -> bytes:
        """The whole answer for the client at address ``source``; SERVFAIL when nobody has one, or too much is being asked. Raises nothing.

        ``stream``: it came by TCP, and others are asked that way.
        """
        if self._asking[source] >= MAX_PER_SOURCE or self._asking.total() >= MAX_AT_ONCE:
            return write_answer(query, Code.SERVFAIL, recursion=True)
        self._asking[source] += 1
        try:
            return await self._ask_each(query, stream=stream)
        finally:
            self._asking[source] -= 1
            if not self._asking[source]:
                del self._asking[source]

    async def _ask_each(self, query: Query, *, stream: bool) -> bytes:
        limit = _MAX_STREAM if stream else query.datagram_size
        for upstream in self._in_order():
            try:
                async with asyncio.timeout(self._attempt_seconds):
                    untrusted = await (_ask_stream if stream else _ask_datagram)(upstream, query)
            except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
                log.debug("a resolver did not answer", extra={"resolver": upstream.address, "error": str(error) or type(error).__name__})
                continue
            self._well, self._failing = upstream, False
            return pass_on(untrusted, query, limit=limit)
        self._complain()
        return write_answer(query, Code.SERVFAIL, recursion=True)

    def _in_order(self) -> list[Upstream]:
        """Who answered last first; a single one twice, for a packet may be lost."""
        found = sorted(self._upstreams(), key=lambda upstream: upstream != self._well)
        return found * 2 if len(found) == 1 else found

    def _complain(self) -> None:
        """Once until one answers again."""
        if not self._failing:
            log.warning("none of this host's resolvers answers: guests cannot resolve names", extra={"resolvers": [one.address for one in self._upstreams()]})
        self._failing = True


class _Asked(asyncio.DatagramProtocol):
    """Waits for the answer among what comes."""

    def __init__(self, query: Query, ident: int) -> None:
        self._query, self._ident = query, ident
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, addr: object) -> None:
        untrusted = data
        if not self.answer.done() and is_answer(untrusted, self._query, self._ident):
            self.answer.set_result(untrusted)

    def error_received(self, exc: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(exc)


async def _ask_datagram(upstream: Upstream, query: Query) -> bytes:
    sock = socket.socket(upstream.family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        sock.setblocking(False)
        sock.connect(upstream.where)
    except BaseException:
        sock.close()
        raise
    ident = secrets.randbelow(65536)
    transport, asked = await asyncio.get_running_loop().create_datagram_endpoint(lambda: _Asked(query, ident), sock=sock)
    try:
        transport.sendto(write_query(query, ident))
        return await asked.answer
    finally:
        transport.close()


async def _ask_stream(upstream: Upstream, query: Query) -> bytes:
    ident = secrets.randbelow(65536)
    reader, writer = await asyncio.open_connection(upstream.address, upstream.where[1], family=upstream.family)
    try:
        message = write_query(query, ident)
        writer.write(len(message).to_bytes(2, "big") + message)
        await writer.drain()
        untrusted = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
        if not is_answer(untrusted, query, ident):
            raise ConnectionError("the answer is none to what was asked")
        return untrusted
    finally:
        writer.transport.abort()
