"""From an HTTP request to the call that answers it, and back: op id, versions, limits, decoding, errors, event streams."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing
from typing import Final
from urllib.parse import unquote

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route as Endpoint
from starlette.routing import Router
from starlette.types import Message, Receive, Scope, Send

from .. import __version__
from ..api import types as t
from ..api.codec import decode_request, encode, encode_error
from ..api.routes import ROUTES, Route
from ..model.errors import BadRequest, BadVersion, BangerError, UnknownMethod
from ..model.opid import current_op_id, new_op_id
from .attach import check_peer
from .call import Call
from .calls import ANSWERS, start_work
from .context import Context
from .failures import describe, http_status
from .feed import EventFeed
from .operations import Operation

log = logging.getLogger(__name__)

MAX_BODY: Final = 1024 * 1024
_STARTUP_SECONDS: Final = 60.0
_ANY_VERSION: Final = frozenset({"daemon.status", "daemon.stop"})
_JSON: Final = "application/json"


class Api:
    """The ASGI application. It answers from the moment the sockets exist; calls wait until ``ready`` holds the services, or the reason why there are none."""

    def __init__(
        self, ready: asyncio.Future[Context], status: Callable[[], t.DaemonStatus], request_stop: Callable[[], None], on_refusal: Callable[[], None]
    ) -> None:
        """``on_refusal`` is called before a caller is told why there are no services."""
        self._ready = ready
        self._on_refusal = on_refusal
        self._status = status
        self._request_stop = request_stop
        endpoints = [Endpoint(_pattern(route), _Endpoint(self, route), methods=[route.method], name=route.name) for route in ROUTES]
        self._router = Router(endpoints, redirect_slashes=False, default=_unknown)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        op_id = new_op_id()
        current_op_id.set(op_id)
        started = False

        async def send_labelled(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message["headers"], (b"banger-op-id", op_id.encode()), (b"banger-version", __version__.encode())]
            await send(message)

        try:
            check_peer(scope["state"]["peer"].uid)
            scope["app"] = self  # makes starlette raise for a wrong method instead of answering in its own words
            scope["path"] = scope["raw_path"].decode("latin-1")  # a slash inside a reference is no boundary of the path
            await self._router(scope, receive, send_labelled)
        except ClientDisconnect:
            log.debug("the client left before its request was complete")
        except (Exception, asyncio.CancelledError) as error:  # describe() logs it; no client may bring the daemon down
            body = describe(_unknown_method(scope) if isinstance(error, HTTPException) else error, op_id)
            if started:
                raise
            await _json(encode_error(body), http_status(body.code))(scope, receive, send_labelled)

    async def answer(self, route: Route, request: Request) -> Response | Operation | EventFeed:
        """Do what the route says: a finished response, or an operation or feed whose events are to be streamed."""
        if route.name not in _ANY_VERSION:
            _check_version(request)
        untrusted_body = await _read_body(request)
        query = _read_query(route, request.query_params)
        if route.name in _ANY_VERSION:
            status = self._status()
            if route.name == "daemon.stop":
                self._request_stop()
            return _json(encode(status))
        context = await self._context()
        if route.request is None and untrusted_body.strip() not in (b"", b"{}"):
            raise BadRequest(f"{route.method} {route.path} takes no body")
        body = None if route.request is None else decode_request(route.request, untrusted_body)
        call = Call({name: unquote(value) for name, value in request.path_params.items()}, query, body)
        if route.name == "operation.events":
            return context.operations.find(call.path["id"])
        if route.name == "events":
            return EventFeed(context.database.events, query)
        if route.kind != "operation":
            return _json(encode(await ANSWERS[route.name](context, call)))
        wait = query.get("wait", "0") not in ("0", "false")
        operation = start_work(context, route.name, call, waited_for=wait)
        return operation if wait else _json(encode(operation.describe()), 202, {"Location": f"/v1/operations/{operation.id}"})

    async def _context(self) -> Context:
        """The services, once machines are recovered; bounded, because a caller wants an answer."""
        done, _ = await asyncio.wait({self._ready}, timeout=_STARTUP_SECONDS)
        if not done:
            raise BangerError("the daemon is still recovering its machines", hint="try again in a minute; banger daemon status shows its log")
        if self._ready.exception() is not None:
            self._on_refusal()
        return self._ready.result()


class _Endpoint:
    """What starlette routes a request to; an object, so that it is called with the plain ASGI arguments."""

    def __init__(self, api: Api, route: Route) -> None:
        self._api = api
        self._route = route

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = await self._api.answer(self._route, Request(scope, receive))
        if isinstance(answer, Operation | EventFeed):
            await _stream(answer, receive, send)
        else:
            await answer(scope, receive, send)


def _pattern(route: Route) -> str:
    """The path for starlette. An image may be named by its reference, which has slashes."""
    return route.path.replace("{name}", "{name:path}") if route.name.startswith("image.") else route.path


async def _stream(source: Operation | EventFeed, receive: Receive, send: Send) -> None:
    """Send events as they happen until the operation ends or the client goes."""
    headers = [(b"content-type", b"application/x-ndjson")]
    if isinstance(source, Operation):
        headers.append((b"location", f"/v1/operations/{source.id}".encode()))
    with source.followed() as chunks:
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        sender = asyncio.create_task(_send_chunks(chunks, send))
        leaver = asyncio.create_task(_wait_disconnected(receive))
        try:
            await asyncio.wait({sender, leaver}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            leaver.cancel()
            if not sender.done():
                sender.cancel()
            await asyncio.gather(sender, leaver, return_exceptions=True)
    if not sender.cancelled():
        sender.result()


async def _send_chunks(chunks: AsyncIterator[bytes], send: Send) -> None:
    async with aclosing(chunks):  # type: ignore[type-var]
        async for chunk in chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _wait_disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _read_body(request: Request) -> bytes:
    declared = request.headers.get("content-length", "0")
    body = bytearray()
    if int(declared) <= MAX_BODY:
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY:
                break
        else:
            return bytes(body)
    raise BadRequest(f"the request is larger than {MAX_BODY // 1024} KiB", hint="send large data through a stream: banger vm exec VM -- sh -c 'cat > FILE'")


def _read_query(route: Route, untrusted: Mapping[str, str]) -> dict[str, str]:
    known = {*route.query, "wait"} if route.kind == "operation" else set(route.query)
    for name in untrusted:
        if name not in known:
            raise BadRequest(f"{route.method} {route.path} has no query parameter {name!r}", hint=f"it has: {', '.join(sorted(known)) or 'none'}")
    return dict(untrusted)


def _check_version(request: Request) -> None:
    version = request.headers.get("banger-api-version", str(t.API_VERSION))
    if version != str(t.API_VERSION):
        raise BadVersion(
            f"the client speaks version {version[:16]!r} of the contract, this daemon ({__version__}) speaks {t.API_VERSION}",
            hint="banger daemon stop; the next command starts a daemon of the right version",
        )


async def _unknown(scope: Scope, receive: Receive, send: Send) -> None:
    raise _unknown_method(scope)


def _unknown_method(scope: Scope) -> UnknownMethod:
    return UnknownMethod(f"no such call: {scope['method'][:16]} {scope['path'][:200]}", hint="GET /v1/openapi.json describes all calls")


def _json(content: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(content, status, headers, media_type=_JSON)
