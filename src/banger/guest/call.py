"""A call to the guest program that we make ourselves: a request, perhaps content in either direction, and a result."""

from __future__ import annotations

import asyncio
import struct
from typing import Final

from ..model.errors import GuestError
from .channel import Channel
from .fields import Fields, u32
from .frames import INITIAL_WINDOW, MAX_PAYLOAD, STDIN, STDOUT, Frame, FrameType
from .outcome import decode_refusal

CREDIT_STEP: Final = INITIAL_WINDOW // 4
"""Consumed bytes after which their credit is given back."""
_WINDOW: Final = struct.Struct("<I")


def window_of(frame: Frame) -> int:
    """Bytes that a WINDOW frame allows; raises GuestError when malformed."""
    if len(frame.payload) != _WINDOW.size:
        raise GuestError("malformed message from the guest: a window of the wrong size")
    credit: int = _WINDOW.unpack(frame.payload)[0]
    return credit


class Call:
    """One plain call. ``content`` collects what the guest sends, at most ``limit`` bytes."""

    def __init__(self, channel: Channel, *, limit: int = 0) -> None:
        self._channel = channel
        self._stream = 0
        self._limit = limit
        self._may_send = INITIAL_WINDOW
        self._may_receive = INITIAL_WINDOW
        self._outcome: Fields | GuestError | None = None
        self._moved = asyncio.Event()
        self.content = bytearray()

    async def run(self, operation: int, request: bytes = b"", upload: bytes | None = None) -> Fields:
        """The fields of RESULT. ``upload`` is sent on channel 0, ended by EOF.

        Raises GuestError as the guest answered, ChannelLost. When this task is cancelled, so is the call.
        """
        self._stream = self._channel.open(self, operation, request)
        try:
            if upload is not None:
                await self._send(memoryview(upload))
            while self._outcome is None:
                await self._wait()
        finally:
            self._channel.cancel(self._stream)
        if isinstance(self._outcome, GuestError):
            raise self._outcome
        return self._outcome

    async def _send(self, rest: memoryview) -> None:
        while rest and self._outcome is None:
            if not self._may_send:
                await self._wait()
                continue
            chunk = rest[: min(MAX_PAYLOAD, self._may_send)]
            self._may_send -= len(chunk)
            rest = rest[len(chunk) :]
            self._channel.write(FrameType.DATA, self._stream, chunk, STDIN)
            await self._channel.drain()
        if self._outcome is None:
            self._channel.write(FrameType.EOF, self._stream, channel=STDIN)

    async def _wait(self) -> None:
        self._moved.clear()
        await self._moved.wait()

    def receive(self, frame: Frame) -> None:
        if frame.type == FrameType.DATA:
            self._take(frame)
        elif frame.type == FrameType.WINDOW and frame.channel == STDIN:
            self._may_send += window_of(frame)
            self._moved.set()
        elif frame.type == FrameType.RESULT:
            self._answered(Fields.parse(frame.payload))
        elif frame.type == FrameType.ERROR:
            self._answered(decode_refusal(frame.payload))

    def end(self, error: GuestError) -> None:
        self._answered(error)

    def _answered(self, outcome: Fields | GuestError) -> None:
        self._channel.forget(self._stream)
        self._outcome = outcome
        self._moved.set()

    def _take(self, frame: Frame) -> None:
        size = len(frame.payload)
        if frame.channel != STDOUT or size > self._may_receive:
            raise GuestError("the guest sent more than it was allowed to")
        if len(self.content) + size > self._limit:
            raise GuestError(f"the guest's answer is longer than the {self._limit} bytes that are wanted")
        self.content += frame.payload
        self._may_receive -= size
        owed = INITIAL_WINDOW - self._may_receive
        if owed >= CREDIT_STEP:
            self._may_receive += owed
            self._channel.write(FrameType.WINDOW, self._stream, u32(owed), STDOUT)
