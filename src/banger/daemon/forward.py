"""Moving frames between a client on ``attach.sock`` and a stream of a guest, unread.

Memory is bounded in both directions: towards the guest by not reading from a client who is ahead, towards the client by the credit that it gave to the guest
(and by dropping the connection when a guest ignores it).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Final

from ..guest.agent import Agent
from ..guest.frames import Frame, FrameReader, FrameType, Operation, encode
from ..guest.outcome import encode_refusal
from ..model.errors import BadRequest, BangerError, ChannelLost, GuestTimeout
from ..model.names import short_id

log = logging.getLogger(__name__)

CLIENT_STREAM: Final = 1
"""Stream id and epoch that both sides use on attach.sock."""
CLIENT_EPOCH: Final = 0
OPEN_SECONDS: Final = 20.0
"""For the guest's first answer to an OPEN, which says that the command runs; then it may be silent for ever."""
MAX_UNSENT_TO_CLIENT: Final = 4 * 1024 * 1024
_HIGH_WATER: Final = 1024 * 1024
_LOW_WATER: Final = 256 * 1024
_FRAME_OVERHEAD: Final = 256
"""What a queued frame costs beside its payload, roughly: a flood of empty frames must count too."""
_FROM_CLIENT: Final = frozenset({FrameType.DATA, FrameType.EOF, FrameType.WINDOW, FrameType.CONTROL, FrameType.CANCEL})
_LAST: Final = frozenset({FrameType.RESULT, FrameType.ERROR})


def _nothing() -> None:
    """What happens at the end of a stream that nobody counts."""


class Forward:
    """The session of a connection that carries one stream of a guest."""

    def __init__(
        self, transport: asyncio.Transport, agent: Agent, operation: Operation, request: bytes, *, op_id: str, vm_id: str, on_end: Callable[[], None] = _nothing
    ) -> None:
        """Open the stream. ``on_end`` is called once it is over, or could not be opened. Raises GuestError or ChannelLost when the guest cannot be reached."""
        self._transport = transport
        self._reader = FrameReader()
        self._queue: deque[Frame] = deque()
        self._queued = 0
        self._wake = asyncio.Event()
        self._over = False
        self._labels = {"op_id": op_id, "vm_id": vm_id}
        self._on_end = on_end
        try:
            self._forwarded = agent.forward(operation, request, self._on_frame, self._on_lost)
        except BaseException:
            on_end()
            raise
        self._sender = asyncio.create_task(self._send_queue(), name=f"forward to {short_id(vm_id)}")
        self._unanswered: asyncio.TimerHandle | None = asyncio.get_running_loop().call_later(OPEN_SECONDS, self._give_up_opening)
        log.info("stream opened", extra=self._labels)

    def received(self, untrusted: bytes) -> None:
        """Frames from the client, towards the guest."""
        if self._over:
            return
        for frame in self._reader.feed(untrusted):
            if frame.type not in _FROM_CLIENT or frame.stream != CLIENT_STREAM or frame.epoch != CLIENT_EPOCH:
                self._give_up(BadRequest.code, f"a client may not send frames of type {frame.type} on stream {frame.stream}")
                return
            self._queue.append(frame)
            self._queued += len(frame.payload) + _FRAME_OVERHEAD
        self._wake.set()
        if self._queued > _HIGH_WATER:
            self._transport.pause_reading()

    def ended(self) -> None:
        """The client has gone: so must what runs in the guest."""
        log.info("stream closed", extra=self._labels)
        self._end()
        self._sender.cancel()
        self._forwarded.cancel()

    def stop(self, why: str) -> None:
        """Tell the client that this is the end."""
        if not self._over:
            self._give_up(ChannelLost.code, why)

    async def _send_queue(self) -> None:
        try:
            while True:
                while self._queue:
                    frame = self._queue.popleft()
                    await self._forwarded.send(frame)
                    if frame.type == FrameType.CANCEL:
                        self._finish()
                    self._queued -= len(frame.payload) + _FRAME_OVERHEAD
                    if self._queued < _LOW_WATER:
                        self._transport.resume_reading()
                self._wake.clear()
                await self._wake.wait()
        except BangerError as error:
            self._give_up(error.code, error.message)
        except Exception:
            log.exception("forwarding failed", extra=self._labels)
            self._give_up(ChannelLost.code, "internal error of the daemon")

    def _on_frame(self, frame: Frame) -> None:
        if self._over:
            return
        self._answered()
        self._transport.write(encode(frame))
        if frame.type in _LAST:
            self._finish()
        elif self._transport.get_write_buffer_size() > MAX_UNSENT_TO_CLIENT:
            log.warning("the guest sends more than the client asked for, dropping the stream", extra=self._labels)
            self._end()
            self._transport.abort()

    def _answered(self) -> None:
        if self._unanswered is not None:
            self._unanswered.cancel()
            self._unanswered = None

    def _give_up_opening(self) -> None:
        log.warning("the guest does not open a stream", extra=self._labels)
        self._give_up(GuestTimeout.code, f"the guest did not begin within {OPEN_SECONDS:g} s; is it frozen?")

    def _on_lost(self) -> None:
        self._give_up(ChannelLost.code, "the channel to the guest ended")

    def _give_up(self, code: str, message: str) -> None:
        if self._over:
            return
        self._forwarded.cancel()
        self._transport.write(encode(Frame(FrameType.ERROR, CLIENT_STREAM, encode_refusal(code, message))))
        self._finish()

    def _finish(self) -> None:
        """Nothing more will be sent. What the client still sends is read and dropped: closing over it would cost the client the end of the output."""
        self._end()
        self._queue.clear()
        if not self._transport.is_closing():
            self._transport.write_eof()
            self._transport.resume_reading()

    def _end(self) -> None:
        self._answered()
        if not self._over:
            self._over = True
            self._on_end()
