"""A face of the server: its sockets, which may be somebody else's for now."""

from __future__ import annotations

import logging
import socket
from collections.abc import Awaitable, Callable

from ...model.errors import BangerError
from .datagrams import Datagrams, serve_datagrams
from .responder import Responder
from .streams import Streams

log = logging.getLogger(__name__)

Bind = Callable[[], Awaitable[tuple[socket.socket, socket.socket]]]


class Face:
    """Opened as soon as its sockets can be had; until then ``problem`` says why not."""

    def __init__(self, name: str, bind: Bind, responder: Responder, *, streams_per_source: int) -> None:
        """``bind`` gives a UDP and a listening TCP socket, or raises BangerError; ``name`` is for people."""
        self.name = name
        self.responder = responder
        self.problem: BangerError | None = None
        self._bind = bind
        self._streams_per_source = streams_per_source
        self._datagrams: Datagrams | None = None
        self._streams: Streams | None = None

    @property
    def is_open(self) -> bool:
        """It answers."""
        return self._datagrams is not None

    async def open(self) -> bool:
        """Have it open; says so in the log when that does not work for the first time, or works at last. Returns whether it is open."""
        if self.is_open:
            return True
        try:
            datagrams, stream = await self._bind()
        except BangerError as error:
            if self.problem is None:
                log.warning("names are not answered; tried again every minute", extra={"face": self.name, "error": error.message, "hint": error.hint})
            self.problem = error
            return False
        self._streams = Streams(self.responder, per_source=self._streams_per_source)
        await self._streams.start(stream)
        self._datagrams = await serve_datagrams(datagrams, self.responder)
        log.info("names are answered" if self.problem is None else "names are answered at last", extra={"face": self.name})
        self.problem = None
        return True

    async def close(self) -> None:
        """Answer no more; a second call does nothing."""
        if self._datagrams is not None:
            self._datagrams.close()
        if self._streams is not None:
            await self._streams.close()
        self._datagrams = self._streams = None
