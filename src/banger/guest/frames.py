"""Frames of the agent protocol (docs/agent-protocol.md, sections 2 and 4): encoding, and decoding that finds its way back after any damage.

Sans-IO and quick to import: the daemon, the tests and the synchronous client share it.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

PROTOCOL_VERSION: Final = 1
MAX_PAYLOAD: Final = 65504
INITIAL_WINDOW: Final = 262144
"""Bytes that may be sent on each channel of a new stream before the first WINDOW."""

STDIN: Final = 0
STDOUT: Final = 1
STDERR: Final = 2

MAGIC: Final = b"BGR1"
TRAILER: Final = b"RB\nZ"
_HEADER: Final = struct.Struct("<4sBBHIIII")
_UNCHECKED: Final = struct.Struct("<4sBBHIII")
_CHECKSUM: Final = struct.Struct("<I")
HEADER_SIZE: Final = _HEADER.size
MAX_FRAME: Final = HEADER_SIZE + MAX_PAYLOAD + len(TRAILER)


class FrameType(IntEnum):
    """What a frame is."""

    ATTACH = 1
    HELLO = 2
    PING = 3
    PONG = 4
    EVENT = 5
    OPEN = 16
    OPENED = 17
    DATA = 18
    EOF = 19
    WINDOW = 20
    CONTROL = 21
    RESULT = 22
    ERROR = 23
    CANCEL = 24


class Operation(IntEnum):
    """What a stream is opened for."""

    CONFIGURE = 1
    EXEC = 2
    READ = 3
    WRITE = 4
    LISTENERS = 5
    STATS = 6
    SHUTDOWN = 7
    TIME = 8
    SYNC = 9
    CONNECT = 10
    UNPACK = 11
    PACK = 12
    STAT = 13
    USER = 14
    JOB_START = 15
    JOB_LIST = 16
    JOB_SIGNAL = 17
    JOB_OUTPUT = 18


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame. ``type`` is an int because a peer may send types we do not know."""

    type: int
    stream: int
    payload: bytes | memoryview
    channel: int = 0
    epoch: int = 0


def encode(frame: Frame) -> bytes:
    """The frame as sent. Raises ValueError when the payload is longer than MAX_PAYLOAD."""
    size = len(frame.payload)
    if size > MAX_PAYLOAD:
        raise ValueError(f"a payload of {size} bytes does not fit into a frame")
    head = _UNCHECKED.pack(MAGIC, frame.type, frame.channel, 0, frame.stream, size, frame.epoch)
    return b"".join((head, _CHECKSUM.pack(zlib.crc32(head)), frame.payload, TRAILER))


class FrameReader:
    """Finds the frames in a stream of untrusted bytes. Holds back at most one unfinished frame."""

    __slots__ = ("_buffer", "_needed")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._needed = HEADER_SIZE
        """With fewer bytes than this in the buffer there is nothing new to decide."""

    def feed(self, untrusted_data: bytes | bytearray | memoryview) -> list[Frame]:
        """The frames that ``untrusted_data`` completes, in order. Damage is skipped silently, as the protocol wants."""
        self._buffer += untrusted_data
        if len(self._buffer) < self._needed:
            return []
        with memoryview(self._buffer) as view:
            frames, kept_from = self._scan(view)
        del self._buffer[:kept_from]
        return frames

    def _scan(self, view: memoryview) -> tuple[list[Frame], int]:
        buffer, size, position = self._buffer, len(view), 0
        frames: list[Frame] = []
        self._needed = HEADER_SIZE
        while True:
            start = buffer.find(MAGIC, position)
            if start < 0:
                return frames, max(position, size - len(MAGIC) + 1)
            if size - start < HEADER_SIZE:
                return frames, start
            _, kind, channel, reserved, stream, length, epoch, checksum = _HEADER.unpack_from(view, start)
            if reserved or length > MAX_PAYLOAD or zlib.crc32(view[start : start + _UNCHECKED.size]) != checksum:
                position = start + 1
                continue
            trailer = start + HEADER_SIZE + length
            if size < trailer + len(TRAILER):
                self._needed = trailer + len(TRAILER) - start
                return frames, start
            if not buffer.startswith(TRAILER, trailer):
                position = start + 1
                continue
            frames.append(Frame(kind, stream, bytes(view[start + HEADER_SIZE : trailer]), channel, epoch))
            position = trailer + len(TRAILER)
