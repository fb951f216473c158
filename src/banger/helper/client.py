"""The privileged verbs as an unprivileged daemon has them: each is one connection to the helper's socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ..host.paths import HELPER_SOCKET
from ..host.process import wait_exit
from ..host.sockets import peer_of, short_name
from ..model.errors import BadRequest, BangerError, HelperUnreachable, Unauthorized, from_code
from ..model.machine import Limits
from ..model.network import NetworkState
from ..model.opid import current_op_id
from ..model.records import ProcessIdentity
from . import wire
from .protocol import HelperInfo, Launch, PrivilegedOps
from .shapes import info_from_json, launch_to_json, limits_to_json, process_to_json, state_from_json

log = logging.getLogger(__name__)

CALL_SECONDS: Final = 75.0
"""Longer than the helper grants itself."""
_AT_ONCE: Final = 16
_ATTEMPTS: Final = 3
_PAUSE_SECONDS: Final = 0.1
_MOST_RECEIVED: Final = 4
_STRAY_SECONDS: Final = 5.0
_HINT: Final = "sudo banger system restart"


@dataclass(frozen=True, slots=True)
class _Answer:
    value: Any
    descriptors: tuple[int, ...]


class _Unanswered(HelperUnreachable):
    """The helper has the request and gave no reply; whether it was carried out is unknown."""


class _ConnectionLost(_Unanswered):
    """The helper went away, so another one will answer."""


def privileged_ops(path: Path = HELPER_SOCKET) -> PrivilegedOps:
    """All verbs, through the helper that listens at ``path``."""
    client = HelperClient(path)
    return PrivilegedOps(network=client, names=client, vmms=client)


class HelperClient:
    """NetworkOps, NameOps and VmmOps by the helper. Nothing is kept between two calls, so it may be restarted at any time.

    Every method raises what the helper answered, and HelperUnreachable when it does not answer.
    """

    def __init__(self, path: Path = HELPER_SOCKET, *, call_seconds: float = CALL_SECONDS) -> None:
        self._path = path
        self._call_seconds = call_seconds
        self._places = asyncio.Semaphore(_AT_ONCE)

    async def info(self) -> HelperInfo:
        """What the helper says of itself."""
        with _understood():
            return info_from_json(await self._call("info", {}))

    # -- NetworkOps ---------------------------------------------------------------------------------------------------------------------------------

    async def ensure_network(self) -> NetworkState:
        with _understood():
            return state_from_json(await self._call("ensure_network", {}))

    async def inspect_network(self) -> NetworkState:
        with _understood():
            return state_from_json(await self._call("inspect_network", {}))

    async def warm_taps(self, slots: Sequence[int]) -> None:
        await self._call("warm_taps", {"slots": list(slots)})

    async def attach_tap(self, vm_id: str, slot: int, *, nat: bool) -> None:
        await self._call("attach_tap", {"vm_id": vm_id, "slot": slot, "nat": nat})

    async def release_taps(self, slots: Sequence[int], *, keep: bool) -> None:
        await self._call("release_taps", {"slots": list(slots), "keep": keep})

    async def set_nat(self, addresses: Mapping[str, bool]) -> None:
        await self._call("set_nat", {"addresses": dict(addresses)})

    async def remove_network(self) -> None:
        await self._call("remove_network", {})

    # -- NameOps ------------------------------------------------------------------------------------------------------------------------------------

    async def bind_dns(self) -> tuple[socket.socket, socket.socket]:
        answer = await self._exchange_again("bind_dns", {})
        sockets = [socket.socket(fileno=fd) for fd in answer.descriptors]
        if [one.type for one in sockets] != [socket.SOCK_DGRAM, socket.SOCK_STREAM]:
            for one in sockets:
                one.close()
            raise HelperUnreachable("the helper sent no pair of DNS sockets", hint=_HINT)
        for one in sockets:
            one.setblocking(False)
        return sockets[0], sockets[1]

    async def route_resolver(self, port: int) -> str:
        return str(await self._call("route_resolver", {"port": port}))

    async def clear_resolver(self) -> None:
        await self._call("clear_resolver", {})

    # -- VmmOps -------------------------------------------------------------------------------------------------------------------------------------

    async def launch_vmm(self, launch: Launch, descriptors: Sequence[int]) -> ProcessIdentity:
        """As the protocol says. It is never repeated: a helper that went away meanwhile may have started the VMM, which is ended then, as on cancellation."""
        exchange = asyncio.create_task(self._launch(launch, [os.dup(fd) for fd in descriptors]))
        exchange.add_done_callback(lambda task: task.cancelled() or task.exception())  # looked at, also when nobody waits any more
        try:
            return await asyncio.shield(exchange)
        except _Unanswered:
            await self._end_stray(launch.vm_id)
            raise
        except asyncio.CancelledError:
            await asyncio.wait([exchange])
            if exchange.exception() is None or isinstance(exchange.exception(), _Unanswered):
                await self._end_stray(launch.vm_id)
            raise

    async def _launch(self, launch: Launch, descriptors: Sequence[int]) -> ProcessIdentity:
        """Closes the descriptors, which are its own: the caller may be gone with his before they are sent."""
        try:
            answer = await self._exchange("launch_vmm", launch_to_json(launch), descriptors)
        finally:
            wire.close_all(descriptors)
        with _understood():
            return ProcessIdentity(**answer.value)

    async def _end_stray(self, vm_id: str) -> None:
        """End a VMM that was started for nobody. What cannot be ended now is found by the daemon's journal and its search for leftovers."""
        try:
            if process := (await self.list_vmms()).get(vm_id):
                await self.signal_vmm(vm_id, process, "KILL")
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(wait_exit(process), _STRAY_SECONDS)
            await self.release_vmm(vm_id)
        except BangerError as error:
            log.warning("a VMM may be left over", extra={"vm": vm_id, "error": error.message})

    async def signal_vmm(self, vm_id: str, process: ProcessIdentity, signal: str) -> bool:
        return bool(await self._call("signal_vmm", {"vm_id": vm_id, "process": process_to_json(process), "signal": signal}))

    async def list_vmms(self) -> Mapping[str, ProcessIdentity]:
        with _understood():
            listed = await self._call("list_vmms", {})
            return {vm_id: ProcessIdentity(pid=pid, start_time=start) for vm_id, (pid, start) in listed.items()}

    async def limit_vmm(self, vm_id: str, limits: Limits) -> None:
        await self._call("limit_vmm", {"vm_id": vm_id, "limits": limits_to_json(limits)})

    async def release_vmm(self, vm_id: str) -> None:
        await self._call("release_vmm", {"vm_id": vm_id})

    # -- one call -----------------------------------------------------------------------------------------------------------------------------------

    async def _call(self, verb: str, arguments: Mapping[str, Any]) -> Any:
        answer = await self._exchange_again(verb, arguments)
        if answer.descriptors:
            wire.close_all(answer.descriptors)
            raise HelperUnreachable(f"the helper sent descriptors for {verb}", hint=_HINT)
        return answer.value

    async def _exchange_again(self, verb: str, arguments: Mapping[str, Any]) -> _Answer:
        """Ask, and ask again when the helper goes away meanwhile: a verb that was carried out twice is carried out once."""
        for _ in range(_ATTEMPTS - 1):
            try:
                return await self._exchange(verb, arguments)
            except _ConnectionLost:
                log.info("the helper went away", extra={"verb": verb})
                await asyncio.sleep(_PAUSE_SECONDS)
        return await self._exchange(verb, arguments)

    async def _exchange(self, verb: str, arguments: Mapping[str, Any], descriptors: Sequence[int] = ()) -> _Answer:
        request = {"verb": verb, "op_id": current_op_id.get(), "arguments": arguments}
        payload = json.dumps(request, separators=(",", ":")).encode()
        if len(payload) > wire.MAX_REQUEST_BYTES or len(descriptors) > wire.MAX_DESCRIPTORS:
            raise BadRequest(f"{verb} with {len(payload)} bytes and {len(descriptors)} descriptors is too much for the helper")
        try:
            async with asyncio.timeout(self._call_seconds), self._places:
                with await self._connect() as sock:
                    return _decode(await self._converse(sock, payload, descriptors))
        except TimeoutError:
            raise _Unanswered(f"the helper did not answer {verb} within {self._call_seconds:g} s", hint=_HINT) from None

    async def _connect(self) -> socket.socket:
        while True:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
            try:
                with short_name(self._path) as name:
                    sock.connect(name)
                _check_server(sock)
                return sock
            except BlockingIOError:  # its backlog is full; connecting to a unix socket never waits otherwise
                sock.close()
                await asyncio.sleep(_PAUSE_SECONDS / 10)
            except OSError as error:
                sock.close()
                raise HelperUnreachable(f"the privileged helper does not answer at {self._path}: {error.strerror}", hint=_HINT) from error
            except BaseException:
                sock.close()
                raise

    async def _converse(self, sock: socket.socket, payload: bytes, descriptors: Sequence[int]) -> wire.Message:
        try:
            await wire.send(sock, payload, descriptors)
            reply = await wire.receive(sock, limit=wire.MAX_REPLY_BYTES, descriptors=_MOST_RECEIVED)
        except OSError as error:
            raise _ConnectionLost(f"the helper went away: {error.strerror}", hint=_HINT) from error
        if reply.fault or not reply.untrusted_payload:
            wire.close_all(reply.descriptors)
            raise _ConnectionLost(reply.fault or "the helper went away without an answer", hint=_HINT)
        return reply


def _check_server(sock: socket.socket) -> None:
    """Root listens there, or ourselves in tests; nobody else gets our descriptors."""
    if (uid := peer_of(sock).uid) not in (0, os.getuid()):
        raise Unauthorized(f"uid {uid} listens on the helper's socket", hint=_HINT)


def _decode(reply: wire.Message) -> _Answer:
    """The answer; raises the error that it tells of."""
    try:
        with _understood():
            value = json.loads(reply.untrusted_payload)
            if error := value.get("error"):
                raise from_code(error["code"], error["message"], hint=error["hint"], op_id=current_op_id.get())
            return _Answer(value["ok"], reply.descriptors)
    except BaseException:
        wire.close_all(reply.descriptors)
        raise


@contextlib.contextmanager
def _understood() -> Iterator[None]:
    """A reply of another shape is that of another version."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise HelperUnreachable(f"the helper's answer is not understood: {error!r}", hint=_HINT) from error
