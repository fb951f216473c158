"""Streams whose frames are moved between a client and the guest unread."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ..model.errors import BadRequest, GuestError
from .call import window_of
from .channel import Channel
from .frames import INITIAL_WINDOW, STDERR, STDOUT, Frame, FrameType
from .outcome import encode_refusal

_FROM_CLIENT: Final = frozenset({FrameType.DATA, FrameType.EOF, FrameType.WINDOW, FrameType.CONTROL, FrameType.CANCEL})
_FINAL: Final = frozenset({FrameType.RESULT, FrameType.ERROR})


class Forwarded:
    """One stream of ``Agent.forward``. Credit is between guest and client; here it is only checked that the guest keeps to it."""

    def __init__(self, channel: Channel, on_frame: Callable[[Frame], None], on_lost: Callable[[], None]) -> None:
        self._channel = channel
        self._stream = 0
        self._on_frame = on_frame
        self._on_lost = on_lost
        self._ended = False
        self._may_receive = {STDOUT: INITIAL_WINDOW, STDERR: INITIAL_WINDOW}

    def start(self, operation: int, request: bytes) -> None:
        """Send OPEN. Raises as ``Channel.open`` does."""
        self._stream = self._channel.open(self, operation, request)

    async def send(self, frame: Frame) -> None:
        """Move a client's frame to the guest, with this stream's id and epoch; waits while the transport's buffer is full.

        Dropped when the stream has ended. Raises BadRequest for a frame that a client may not send.
        """
        if frame.type not in _FROM_CLIENT:
            raise BadRequest(f"a client may not send frames of type {frame.type}")
        if self._ended:
            return
        if frame.type == FrameType.CANCEL:
            self.cancel()
            return
        if frame.type == FrameType.WINDOW:
            self._grant(frame)
        self._channel.write(frame.type, self._stream, frame.payload, frame.channel)
        await self._channel.drain()

    def _grant(self, frame: Frame) -> None:
        try:
            credit = window_of(frame)
        except GuestError:
            raise BadRequest("malformed frame: a window of the wrong size") from None
        if frame.channel in (STDOUT, STDERR):
            self._may_receive[frame.channel] += credit

    def cancel(self) -> None:
        """Send CANCEL; there are no callbacks any more. Nothing when the stream has ended."""
        if not self._ended:
            self._ended = True
            self._channel.cancel(self._stream)

    def receive(self, frame: Frame) -> None:
        if frame.type == FrameType.DATA and not self._within_credit(frame):
            self.cancel()
            frame = Frame(FrameType.ERROR, 1, encode_refusal("flow_control", "the guest sent more than it was allowed to"))
        elif frame.type in _FINAL:
            self._ended = True
            self._channel.forget(self._stream)
        self._on_frame(Frame(frame.type, 1, frame.payload, frame.channel))

    def _within_credit(self, frame: Frame) -> bool:
        left = self._may_receive.get(frame.channel, 0) - len(frame.payload)
        self._may_receive[frame.channel] = left
        return left >= 0

    def end(self, error: GuestError) -> None:
        if not self._ended:
            self._ended = True
            self._on_lost()
