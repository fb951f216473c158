"""The daemon's life: serve at once, get ready, run until asked to stop, leave nothing behind."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import time
from collections.abc import Callable
from typing import Final

from .. import __version__
from ..api import types as t
from ..host.paths import Layout
from ..host.systemd import notify
from ..model.errors import BangerError
from .attach import AttachServer, Opener
from .context import Context
from .dispatch import Api
from .server import HttpServer
from .tokens import Tokens

log = logging.getLogger(__name__)

OPERATIONS_GRACE: Final = 3.0
OPERATIONS_DEADLINE: Final = 20.0
LEASES_DEADLINE: Final = 15.0
_FAREWELL_SECONDS: Final = 1.0
"""How long a daemon that could not start keeps answering with the reason: somebody has just started it and waits."""
_REFUSED_SECONDS: Final = 0.1
"""For others who wait for the same answer."""

Compose = Callable[[Layout, Tokens[Opener]], Context]


class Daemon:
    """One run of the daemon on sockets that already listen."""

    def __init__(self, layout: Layout, compose: Compose) -> None:
        self._layout = layout
        self._compose = compose
        self._started_at = time.time()
        self._stop = asyncio.Event()
        self._ready: asyncio.Future[Context] = asyncio.get_running_loop().create_future()
        self._tokens: Tokens[Opener] = Tokens()
        self._attach = AttachServer(self._tokens)
        self._server = HttpServer(Api(self._ready, self.status, self.request_stop, self._retire))
        self._context: Context | None = None
        self._failure: BangerError | None = None

    async def run(self, api_socket: socket.socket, attach_socket: socket.socket) -> BangerError | None:
        """Serve until stopped; returns the reason when the daemon could not start. Closes and removes the sockets."""
        await self._attach.start(attach_socket)
        serving = asyncio.create_task(self._server.serve_on(api_socket), name="serve")
        await asyncio.sleep(0)  # serving begins before the imports of _start_up
        starting = asyncio.create_task(self._start_up(), name="start up")
        stopping = asyncio.create_task(self._stop.wait(), name="wait for stop")
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self.request_stop)
        try:
            await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            await self._shut_down(starting, serving)
        return self._failure

    def request_stop(self) -> None:
        """Begin a graceful stop."""
        self._stop.set()

    def status(self) -> t.DaemonStatus:
        """Who we are."""
        return t.DaemonStatus(
            pid=os.getpid(),
            version=__version__,
            api_version=t.API_VERSION,
            socket=str(self._layout.api_socket),
            log=str(self._layout.daemon_log),
            state_directory=str(self._layout.state),
            started_at=self._started_at,
            running_vms=self._context.machines.count_running() if self._context is not None else 0,
        )

    async def _start_up(self) -> None:
        try:
            context = self._context = self._compose(self._layout, self._tokens)
        except Exception as error:
            log.critical("cannot start", exc_info=error)
            self._failure = error if isinstance(error, BangerError) else BangerError(f"the daemon cannot start: {error}", hint=f"see {self._layout.daemon_log}")
            self._refuse_all(self._failure)
            asyncio.get_running_loop().call_later(_FAREWELL_SECONDS, self.request_stop)
            return
        try:
            await context.images.settle()
            await context.machines.recover()
        except Exception:
            # What could be recovered was; refusing all commands would not help the rest.
            log.exception("recovery is not complete")
        self._ready.set_result(context)
        _tell_systemd("READY=1")
        log.info("ready", extra={"version": __version__, "seconds": round(time.time() - self._started_at, 3)})

    def _refuse_all(self, error: BangerError) -> None:
        self._ready.set_exception(error)
        self._ready.exception()  # asyncio complains about exceptions that nobody has looked at

    def _retire(self) -> None:
        """Somebody is being told why there are no services: who comes later starts another daemon, for which the reason may be gone."""
        self._remove_sockets()
        asyncio.get_running_loop().call_later(_REFUSED_SECONDS, self.request_stop)

    def _remove_sockets(self) -> None:
        for path in (self._layout.api_socket, self._layout.attach_socket):
            path.unlink(missing_ok=True)

    async def _shut_down(self, starting: asyncio.Task[None], serving: asyncio.Task[None]) -> None:
        log.info("stopping")
        _tell_systemd("STOPPING=1")
        self._server.stop_listening()
        self._attach.stop_listening()
        self._remove_sockets()
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        if not self._ready.done():
            self._refuse_all(BangerError("the daemon is stopping", hint="try again"))
        context = self._context
        try:
            if context is not None:
                await context.operations.close(grace=OPERATIONS_GRACE, deadline=OPERATIONS_DEADLINE)
            await self._attach.close("the daemon is stopping")
            if context is not None:
                await context.leases.close(deadline=LEASES_DEADLINE)
            if context is not None:
                context.database.events.close()  # who follows them would keep the server waiting
            self._server.stop()
            await asyncio.gather(serving, return_exceptions=True)
        finally:
            if context is not None:
                await context.machines.close()
                context.database.close()
            log.info("stopped")


def _tell_systemd(state: str) -> None:
    """Where systemd started us; what it does not hear is no reason to end anything."""
    try:
        notify(state)
    except OSError as error:
        log.warning("systemd could not be told", extra={"state": state, "error": str(error)})
