"""HTTP on a unix socket of ours: uvicorn, told who the peer is, without its signal handlers and without its ticking."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Generator
from typing import Any, Final

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from ..api.codec import encode_error
from ..api.types import ErrorBody
from ..host.sockets import peer_of

KEEP_ALIVE_SECONDS: Final = 120
"""A client may keep a connection for as long as a command runs between two calls."""
SHUTDOWN_SECONDS: Final = 5


class PeerAwareProtocol(H11Protocol):
    """HTTP/1.1 that puts the peer's credentials into the request's state, and answers damaged requests in the contract's words."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.app_state = {"peer": peer_of(transport.get_extra_info("socket"))}

    def handle_events(self) -> None:
        try:
            super().handle_events()
        except UnicodeDecodeError:  # h11 lets bytes beyond ASCII through, uvicorn's decoding does not
            self.send_400_response("Invalid HTTP request received.")

    def send_400_response(self, msg: str) -> None:
        body = encode_error(ErrorBody(code="bad_request", message="this is not an HTTP/1.1 request"))
        headers = [("content-type", "application/json"), ("content-length", str(len(body))), ("connection", "close")]
        with contextlib.suppress(h11.LocalProtocolError):  # a response is already under way
            for event in (h11.Response(status_code=400, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


class HttpServer(uvicorn.Server):
    """Serves an ASGI application on a listening socket until ``stop``."""

    def __init__(self, app: Any) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                loop="asyncio",
                http=PeerAwareProtocol,
                ws="none",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                log_level="warning",
                access_log=False,
                proxy_headers=False,
                server_header=False,
                date_header=False,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
            )
        )
        self._stopping = asyncio.Event()

    async def serve_on(self, sock: socket.socket) -> None:
        """Serve until ``stop``, then let requests end for a few seconds. Closes the socket."""
        await self.serve(sockets=[sock])

    def stop_listening(self) -> None:
        """Accept no new connection."""
        for server in getattr(self, "servers", []):
            server.close()

    def stop(self) -> None:
        """End: no new connections, idle ones are closed, requests that run get a few seconds."""
        self._stopping.set()

    async def main_loop(self) -> None:
        """Sleep until the end. The original wakes ten times a second, for a date header and for limits that we do not use."""
        await self.on_tick(0)
        await self._stopping.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let requests that run end, close everything else. The original sleeps and polls."""
        self.stop_listening()
        for sock in sockets or []:
            sock.close()
        connections, tasks = self.server_state.connections, self.server_state.tasks
        for connection in list(connections):
            connection.shutdown()
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=SHUTDOWN_SECONDS)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=SHUTDOWN_SECONDS)
        await asyncio.sleep(0)
        for connection in list(connections):
            connection.transport.abort()
        await asyncio.sleep(0)  # connection_lost is called in the next turn

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave signals to daemon.lifetime."""
        yield
