"""Messages of the helper's socket: SOCK_SEQPACKET, one JSON text per message, descriptors beside it (unix(7), SCM_RIGHTS). Sizes and numbers are bounded."""

from __future__ import annotations

import array
import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

MAX_REQUEST_BYTES: Final = 64 * 1024
MAX_REPLY_BYTES: Final = 192 * 1024
"""Below the usual net.core.wmem_default of 208 KiB, which bounds a message; a network of 1000 machines is told in less than 100 KiB."""
MAX_DESCRIPTORS: Final = 32
_INT_BYTES: Final = array.array("i").itemsize


@dataclass(frozen=True, slots=True)
class Message:
    """One message. Whoever has it closes its descriptors, also when it is faulty."""

    untrusted_payload: bytes
    """b"" when the peer has closed the connection."""
    descriptors: tuple[int, ...] = ()
    fault: str = ""
    """Why it is refused; "" when it is in order."""


async def receive(sock: socket.socket, *, limit: int, descriptors: int) -> Message:
    """The next message of a non-blocking socket; one of more than ``limit`` bytes or more descriptors than that has a fault.

    Received descriptors are closed on exec. Raises OSError when the connection broke.
    """
    while True:
        try:
            return _receive_now(sock, limit, descriptors)
        except BlockingIOError:
            await readable(sock)


def _receive_now(sock: socket.socket, limit: int, most: int) -> Message:
    payload, ancillary, flags, _ = sock.recvmsg(limit + 1, socket.CMSG_LEN(most * _INT_BYTES), socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC)
    fault = ""
    if flags & socket.MSG_CTRUNC:
        fault = f"more than {most} descriptors came, or more than can be taken now"
    elif flags & socket.MSG_TRUNC or len(payload) > limit:
        fault = f"the message is longer than {limit} bytes"
    return Message(payload, _descriptors(ancillary), fault)


def _descriptors(ancillary: Iterable[tuple[int, int, bytes]]) -> tuple[int, ...]:
    numbers = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            numbers.frombytes(data[: len(data) - len(data) % _INT_BYTES])
    return tuple(numbers)


async def send(sock: socket.socket, payload: bytes, descriptors: Sequence[int] = ()) -> None:
    """Send one message through a non-blocking socket. Raises OSError, BrokenPipeError above all."""
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
    while True:
        try:
            sock.sendmsg([payload], ancillary, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            return
        except BlockingIOError:
            await _writable(sock)


async def readable(sock: socket.socket) -> None:
    """Return when there is something to receive or to accept."""
    loop = asyncio.get_running_loop()
    await _ready(sock, loop.add_reader, loop.remove_reader)


async def _writable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    await _ready(sock, loop.add_writer, loop.remove_writer)


async def _ready(sock: socket.socket, watch: Callable[..., None], forget: Callable[[int], bool]) -> None:
    ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    watch(sock.fileno(), _resolve, ready)
    try:
        await ready
    finally:
        forget(sock.fileno())


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def close_all(descriptors: Iterable[int]) -> None:
    """Close descriptors of ours. May wait for whatever is behind one (a file system in user space, a lingering socket)."""
    for fd in descriptors:
        with contextlib.suppress(OSError):  # an error of close(2) tells of the file, the descriptor is gone
            os.close(fd)
