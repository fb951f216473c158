"""The helper's socket: one request per connection, from the owner or root, checked, carried out, answered, logged.

What a hostile owner can take is bounded: connections at a time, seconds to say something, bytes, descriptors. What it takes, it takes from itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import socket
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ..host.sockets import Peer, peer_of
from ..model.errors import BadRequest, BangerError, CommandFailed, Unauthorized
from ..model.opid import current_op_id
from . import wire
from .verbs import Answer, Request, Scope, decode_call, decode_request

log = logging.getLogger(__name__)

_MAX_TEXT: Final = 16 * 1024
"""Characters of an error's message or hint in a reply."""
_BUSY: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What a server grants to its callers, all together or each."""

    connections: int = 32
    """At a time; more wait in the backlog of the socket."""
    request_seconds: float = 5.0
    """From connecting to the request, and for taking the reply."""
    call_seconds: float = 60.0
    """For carrying out; the parts have deadlines of their own that are shorter."""
    shutdown_seconds: float = 15.0


@dataclass(slots=True)
class _Record:
    """What the one log line of a call says."""

    peer: Peer
    verb: str = ""
    vm: str = ""
    result: str = "ok"
    error: str = ""
    unexpected: BaseException | None = None


class HelperServer:
    """Carries out what comes through a listening SOCK_SEQPACKET socket."""

    def __init__(self, scope: Scope, bounds: Bounds | None = None) -> None:
        self._scope = scope
        self._bounds = bounds or Bounds()
        self._slots = asyncio.Semaphore(self._bounds.connections)
        self._calls: set[asyncio.Task[None]] = set()

    async def serve(self, listener: socket.socket, stopping: asyncio.Event) -> None:
        """Serve until ``stopping`` is set, then let the calls that run end. The listener stays open."""
        listener.setblocking(False)
        accepting = asyncio.create_task(self._accept(listener))
        waiting = asyncio.create_task(stopping.wait())
        await asyncio.wait((accepting, waiting), return_when=asyncio.FIRST_COMPLETED)
        for task in (accepting, waiting):
            task.cancel()
        try:
            await asyncio.gather(accepting, waiting)
        except asyncio.CancelledError:
            log.debug("accepts nothing more")
        finally:
            await self._drain()

    async def _drain(self) -> None:
        if self._calls:
            _, late = await asyncio.wait(self._calls, timeout=self._bounds.shutdown_seconds)
            for task in late:
                task.cancel()
            if late:
                log.warning("calls were cut short", extra={"calls": len(late)})
                await asyncio.wait(late, timeout=1.0)

    async def _accept(self, listener: socket.socket) -> None:
        while True:
            await self._slots.acquire()
            try:
                sock = await _next_connection(listener)
            except BaseException:
                self._slots.release()
                raise
            task = asyncio.create_task(self._attend(sock))
            self._calls.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._calls.discard(task)
        self._slots.release()
        if not task.cancelled() and (error := task.exception()):
            log.error("a connection failed", exc_info=error)

    async def _attend(self, sock: socket.socket) -> None:
        started = time.monotonic()
        with sock:
            record = _Record(peer_of(sock))
            reply, sockets = await self._answer(sock, record)
            with contextlib.ExitStack() as stack:
                for one in sockets:
                    stack.enter_context(one)
                await self._reply(sock, reply, sockets, record)
        _log_call(record, time.monotonic() - started)

    async def _answer(self, sock: socket.socket, record: _Record) -> tuple[bytes, tuple[socket.socket, ...]]:
        """The text of the reply and what goes with it. Every failure is an answer too."""
        try:
            answer = await self._carry_out(sock, record)
            return _encode({"ok": answer.value}), answer.sockets
        except BangerError as error:
            record.result, record.error = error.code, error.message
            return _encode_error(error), ()
        except OSError as error:
            record.result, record.error, record.unexpected = "operation_failed", str(error), error
            return _encode_error(BangerError(f"the helper failed: {error}", hint="journalctl -u banger-helper tells more")), ()
        except Exception as error:  # noqa: BLE001 - it is logged with its traceback, and the helper goes on
            record.result, record.error, record.unexpected = "operation_failed", repr(error), error
            return _encode_error(BangerError("the helper failed unexpectedly", hint="journalctl -u banger-helper tells more")), ()

    async def _carry_out(self, sock: socket.socket, record: _Record) -> Answer:
        if record.peer.uid not in (self._scope.uid, 0):
            raise Unauthorized(f"the helper serves uid {self._scope.uid}, not {record.peer.uid}", hint="ask the owner of this installation")
        message = await self._request(sock)
        try:
            return await self._act(message, record)
        finally:
            if message.descriptors:
                await _close_elsewhere(message.descriptors)

    async def _request(self, sock: socket.socket) -> wire.Message:
        try:
            async with asyncio.timeout(self._bounds.request_seconds):
                return await wire.receive(sock, limit=wire.MAX_REQUEST_BYTES, descriptors=wire.MAX_DESCRIPTORS)
        except TimeoutError:
            raise BadRequest(f"no request came within {self._bounds.request_seconds:g} s") from None
        except ConnectionError:
            raise BadRequest("the connection broke before a request came") from None

    async def _act(self, message: wire.Message, record: _Record) -> Answer:
        if message.fault or not message.untrusted_payload:
            raise BadRequest(message.fault or "the connection was closed before a request came")
        request: Request = decode_request(message)
        record.verb = request.verb
        current_op_id.set(request.op_id)
        call = decode_call(request, self._scope)
        record.vm = call.vm_id
        try:
            async with asyncio.timeout(self._bounds.call_seconds):
                return await call.act()
        except TimeoutError:
            raise CommandFailed(f"{request.verb} took more than {self._bounds.call_seconds:g} s", hint="journalctl -u banger-helper tells more") from None

    async def _reply(self, sock: socket.socket, reply: bytes, sockets: Iterable[socket.socket], record: _Record) -> None:
        try:
            async with asyncio.timeout(self._bounds.request_seconds):
                await wire.send(sock, reply, [one.fileno() for one in sockets])
        except OSError as error:  # TimeoutError is one
            record.error = record.error or f"nobody took the reply: {error}"


async def _next_connection(listener: socket.socket) -> socket.socket:
    while True:
        await wire.readable(listener)
        try:
            sock, _ = listener.accept()
        except (BlockingIOError, ConnectionError):
            continue
        except OSError as error:
            if error.errno not in _BUSY:
                raise
            log.warning("no connection can be accepted: %s", error)
            await asyncio.sleep(0.2)
            continue
        sock.setblocking(False)
        return sock


async def _close_elsewhere(descriptors: Sequence[int]) -> None:
    """Close a stranger's descriptors, which may wait for as long as he likes (a FUSE flush, SO_LINGER): not on the loop, where others' work waits.

    He waits with it, in one of his own places. The thread is a daemon's, so that it cannot hold up our end either.
    """
    loop, closed = asyncio.get_running_loop(), asyncio.Event()

    def close() -> None:
        wire.close_all(descriptors)
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(closed.set)

    threading.Thread(target=close, name="close", daemon=True).start()
    await closed.wait()


def _encode(reply: dict[str, Any]) -> bytes:
    text = json.dumps(reply, separators=(",", ":")).encode()
    if len(text) > wire.MAX_REPLY_BYTES:
        raise BangerError(f"the answer has {len(text)} bytes, at most {wire.MAX_REPLY_BYTES} can be sent")
    return text


def _encode_error(error: BangerError) -> bytes:
    return _encode({"error": {"code": error.code, "message": error.message[:_MAX_TEXT], "hint": error.hint[:_MAX_TEXT]}})


def _log_call(record: _Record, seconds: float) -> None:
    level = logging.INFO if record.result == "ok" else logging.ERROR if record.unexpected else logging.WARNING
    extra: dict[str, object] = {"verb": record.verb, "result": record.result, "milliseconds": round(seconds * 1000, 1)}
    extra |= {"peer_pid": record.peer.pid, "peer_uid": record.peer.uid}
    extra |= {key: value for key, value in (("vm", record.vm), ("error", record.error)) if value}
    log.log(level, "call", extra=extra, exc_info=record.unexpected)
