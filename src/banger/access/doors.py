"""The doors into one machine: listening sockets of this host, and the connections that came through them."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from ..guest.agent import Connection
from ..model.errors import BangerError
from ..model.forwards import Forward
from .listening import listen, port_of
from .pace import Pace
from .splice import PIECE, splice

log = logging.getLogger(__name__)

AT_ONCE: Final = 200
"""Forwarded connections into one machine; the agent has 256 streams, and some are for commands. More of them wait for their turn."""
MAX_WAITING: Final = 400
LINGER_SECONDS: Final = 5.0
"""How long a machine counts as used after the last connection: one request after the other is one use."""

Dial = Callable[[int], Awaitable[Connection]]
Hold = Callable[[], Callable[[], None]]


@dataclass(eq=False)
class Door:
    """One forward that is listened for. ``forward`` has the real port."""

    forward: Forward
    sock: socket.socket
    server: asyncio.Server | None = None
    connections: set[asyncio.Task[None]] = field(default_factory=set)

    def close(self) -> None:
        """Listen no more and end the connections."""
        if self.server is not None:
            self.server.close()
        self.sock.close()
        for connection in self.connections:
            connection.cancel()


class Doors:
    """All doors into one machine. Between ``open`` and ``serve`` clients can connect and wait."""

    def __init__(self, dial: Dial, hold: Hold) -> None:
        """``dial`` connects to a port in the machine; ``hold`` begins a use of the machine and returns what ends it."""
        self._dial = dial
        self._hold = hold
        self._open: list[Door] = []
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._pace = Pace()
        self._present = 0
        self._release: Callable[[], None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def forwards(self) -> tuple[Forward, ...]:
        """What is listened for."""
        return tuple(door.forward for door in self._open)

    def open(self, forwards: Sequence[Forward]) -> tuple[Door, ...]:
        """Listen for all of these, or none. Raises as ``listen`` does."""
        opened: list[Door] = []
        try:
            for forward in forwards:
                sock = listen(forward)
                opened.append(Door(replace(forward, host_port=port_of(sock)), sock))
        except BaseException:
            for door in opened:
                door.close()
            raise
        self._open += opened
        return tuple(opened)

    async def serve(self) -> None:
        """Let clients in at every door that is open."""
        for door in self._open:
            if door.server is None:
                door.server = await asyncio.start_server(partial(self._enter, door), sock=door.sock, limit=PIECE)

    def close(self, doors: Sequence[Door]) -> None:
        """Close these; nothing for those that are closed already."""
        for door in doors:
            if door in self._open:
                self._open.remove(door)
                door.close()

    def close_forwards(self, forwards: Sequence[Forward]) -> None:
        """Close the doors of these forwards."""
        self.close([door for door in self._open if door.forward in forwards])

    def close_all(self) -> None:
        """The machine does not run any more, or the daemon ends."""
        self.close(list(self._open))
        self._leave_now()

    def _enter(self, door: Door, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._present >= AT_ONCE + MAX_WAITING:
            log.warning("too many forwarded connections, one is refused", extra={"endpoint": door.forward.endpoint, "connections": self._present})
            writer.transport.abort()
            return
        task = asyncio.create_task(self._carry(door.forward.guest_port, reader, writer), name=f"forward {door.forward}")
        door.connections.add(task)
        # Not in the task itself: one that is cancelled before its first step never runs.
        task.add_done_callback(lambda ended: _end(door, writer, ended))

    async def _carry(self, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._arrive()
        try:
            async with self._turns, self._pace.turn(port) as turn, await self._dial(port) as connection:
                turn.connected()
                await splice(reader, writer, connection, on_answer=turn.end)
            writer.close()
        except (BangerError, OSError) as error:
            log.info("a forwarded connection broke", extra={"port": port, "error": str(error)})
        except Exception:
            log.exception("a forwarded connection failed", extra={"port": port})
        finally:
            self._leave()

    def _arrive(self) -> None:
        self._present += 1
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._release is None:
            self._release = self._hold()

    def _leave(self) -> None:
        self._present -= 1
        if self._present == 0 and self._release is not None:
            self._timer = asyncio.get_running_loop().call_later(LINGER_SECONDS, self._leave_now)

    def _leave_now(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._release is not None:
            release, self._release = self._release, None
            release()


def _end(door: Door, writer: asyncio.StreamWriter, task: asyncio.Task[None]) -> None:
    door.connections.discard(task)
    if not writer.is_closing():
        writer.transport.abort()
