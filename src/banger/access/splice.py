"""One TCP connection joined with one inside a machine: back-pressure and half-close in both directions, nothing lost, nothing kept."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from ..guest.agent import Connection
from ..model.errors import BangerError

log = logging.getLogger(__name__)

PIECE: Final = 65536


async def splice(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: Connection, on_answer: Callable[[], None]) -> None:
    """Move bytes until both sides have ended; ``on_answer`` is told whenever some come from the machine.

    Raises OSError when the client's side breaks, GuestError when the machine's does.
    """
    directions = (asyncio.create_task(_inwards(reader, connection)), asyncio.create_task(_outwards(connection, writer, on_answer)))
    try:
        done, _ = await asyncio.wait(directions, return_when=asyncio.FIRST_EXCEPTION)
        for direction in done:
            direction.result()
    finally:
        for direction in directions:
            direction.cancel()
        await asyncio.gather(*directions, return_exceptions=True)


async def _inwards(reader: asyncio.StreamReader, connection: Connection) -> None:
    """To the machine. What breaks there is not raised here: what it had sent before has to come out first, and then the other direction says it."""
    while piece := await reader.read(PIECE):
        try:
            await connection.send(piece)
        except BangerError as error:
            log.debug("the machine takes no more", extra={"error": str(error)})
            return
    connection.send_eof()


async def _outwards(connection: Connection, writer: asyncio.StreamWriter, on_answer: Callable[[], None]) -> None:
    while piece := await connection.receive(PIECE):
        on_answer()
        writer.write(piece)
        await writer.drain()
    writer.write_eof()
