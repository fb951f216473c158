"""The guest's end of a channel, played by the test: it reads frames, and sends what the test tells it to."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from banger.guest.agent import Agent
from banger.guest.fields import Fields, pack, text, u8, u32, u64
from banger.guest.frames import Frame, FrameReader, FrameType, encode


def hello(nonce: int = 0, *, epoch: int = 1, state: int = 0, version: int = 1) -> bytes:
    """A HELLO as sent."""
    fields = pack((1, u64(nonce)), (2, u32(version)), (3, u8(state)), (4, text("boot-1")), (5, text("6.1")), (6, text("b1")))
    return encode(Frame(FrameType.HELLO, 0, fields, 0, epoch))


class FakeGuest:
    """Everything it does not understand ends the test."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.epoch = 1
        self.raw = 0
        """Bytes read so far."""
        self._frames = FrameReader()
        self._pending: list[Frame] = []

    async def frame(self) -> Frame:
        """The next frame from the host."""
        while not self._pending:
            data = await self.reader.read(1 << 20)
            assert data, "the host has closed the channel"
            self.raw += len(data)
            self._pending = self._frames.feed(data)
        return self._pending.pop(0)

    async def expect(self, kind: FrameType) -> Frame:
        frame = await self.frame()
        assert frame.type == kind, FrameType(frame.type)
        return frame

    async def opened(self, operation: int) -> tuple[int, Fields]:
        """Stream id and request of an OPEN of this operation."""
        frame = await self.expect(FrameType.OPEN)
        fields = Fields.parse(frame.payload)
        assert (fields.u32(1), frame.epoch) == (operation, self.epoch)
        return frame.stream, fields

    def send(self, kind: FrameType, stream: int = 0, payload: bytes = b"", channel: int = 0, *, epoch: int | None = None) -> None:
        self.writer.write(encode(Frame(kind, stream, payload, channel, self.epoch if epoch is None else epoch)))

    def result(self, stream: int, *fields: tuple[int, bytes]) -> None:
        self.send(FrameType.RESULT, stream, pack(*fields))

    def error(self, stream: int, code: str, message: str) -> None:
        self.send(FrameType.ERROR, stream, pack((1, text(code)), (2, text(message))))

    async def at_end(self) -> bytes:
        """Whatever else the host sends until it closes."""
        return await self.reader.read(-1)


@asynccontextmanager
async def fake_guest() -> AsyncIterator[tuple[FakeGuest, socket.socket]]:
    """A fake guest and the host's end of its channel."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    reader, writer = await asyncio.open_connection(sock=theirs)
    try:
        yield FakeGuest(reader, writer), ours
    finally:
        writer.transport.abort()
        ours.close()
        await asyncio.sleep(0)


@asynccontextmanager
async def connected(state: int = 2) -> AsyncIterator[tuple[Agent, FakeGuest]]:
    """An agent that a fake guest has greeted."""
    async with fake_guest() as (guest, sock):
        guest.writer.write(hello(state=state))
        agent = await Agent.greet(sock, deadline=10)
        try:
            yield agent, guest
        finally:
            await agent.close()
