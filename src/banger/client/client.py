"""The synchronous client of the daemon's contract."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Final
from urllib.parse import quote, urlencode

import msgspec

from .. import __version__
from ..api.codec import decode_error, decode_reply, encode, error_from_body
from ..api.messages import Request
from ..api.routes import BY_NAME, Route
from ..api.types import API_VERSION, ErrorBody, Event
from ..host.paths import Layout
from ..model.errors import BadRequest, BadVersion, BangerError, DaemonUnreachable, NoDaemon, Unauthorized
from .discovery import Endpoint, find_endpoint
from .http import Response, exchange
from .start import start_daemon, try_open

READ_TIMEOUT: Final = 120.0
"""Seconds a read or call may take; ``doctor`` probes the host's KVM with a real guest."""
CANCEL_TIMEOUT: Final = 20.0
"""Seconds we wait for a cancelled operation to be rolled back."""
_SYSTEM_PATIENCE: Final = 5.0
"""Seconds in which a daemon that systemd restarts may appear."""
_LINE_LIMIT: Final = 64 * 1024
_ANY_VERSION: Final = frozenset({"daemon.status", "daemon.stop"})
"""Calls that a client of another version may make: they are how one gets rid of an old daemon."""


class _AttachAnswer(msgspec.Struct):
    ok: bool
    error: ErrorBody | None = None


class OperationInterrupted(KeyboardInterrupt):
    """Ctrl-C during an operation, which has been cancelled; ``op_id`` is "" when the daemon had not answered yet (it then cancels by itself)."""

    def __init__(self, op_id: str) -> None:
        super().__init__(op_id)
        self.op_id = op_id


class Client:
    """A daemon. Every call is a connection of its own, so threads may share one Client. Use it in a ``with`` statement."""

    def __init__(self, endpoint: Endpoint, *, start: bool, timeout: float = READ_TIMEOUT) -> None:
        self._endpoint = endpoint
        self._start = start
        self._timeout = timeout
        self._spare: list[socket.socket] = []
        self._version_checked = False
        self.last_op_id = ""
        """Op id of the last call, for what only comes out later."""

    @classmethod
    def connect(cls, layout: Layout | None = None, *, start: bool = True, timeout: float = READ_TIMEOUT) -> Client:
        """Find the daemon (of ``layout``, else the one that the environment means) and start it if it is ours to start and nobody listens.

        ``timeout`` is in seconds, for one read. Raises DaemonUnreachable, or Unauthorized when the socket's directory is not private.
        """
        client = cls(find_endpoint() if layout is None else Endpoint.of(layout), start=start, timeout=timeout)
        client._spare.append(client._open())
        return client

    @property
    def endpoint(self) -> Endpoint:
        return self._endpoint

    def call(self, name: str, params: Mapping[str, str] | None = None, request: Request | None = None, query: Mapping[str, str] | None = None) -> Any:
        """A read or a small change: the decoded reply of the route's type. Raises the error that the daemon answers with."""
        route = BY_NAME[name]
        with _explained(), self._exchange(route, params, request, query, self._timeout) as response:
            self.last_op_id = response.headers.get("banger-op-id", "")
            return decode_reply(route.reply, response.read())

    def operation(
        self, name: str, params: Mapping[str, str] | None = None, request: Request | None = None, on_event: Callable[[Event], None] | None = None
    ) -> Any:
        """An operation, waited for: its events go to ``on_event``, its decoded result is returned, or its error raised.

        Ctrl-C cancels it on the daemon, waits until it is rolled back (a second Ctrl-C does not wait), and goes on as OperationInterrupted.
        """
        route = BY_NAME[name]
        op_id = ""
        try:
            self._check_version_once()
            with _explained(), self._exchange(route, params, request, {"wait": "1"}, None) as response:
                op_id = response.headers.get("banger-op-id", "")
                return self._follow(route, response, on_event)
        except KeyboardInterrupt:
            if op_id:
                self._cancel(op_id)
            raise OperationInterrupted(op_id) from None

    def stream(self, name: str, query: Mapping[str, str] | None = None) -> Iterator[Any]:
        """A read that answers with lines: each decoded, as it comes. Raises DaemonUnreachable when the daemon goes away."""
        route = BY_NAME[name]
        with _explained(), self._exchange(route, None, None, query, None) as response:
            for line in response.lines():
                yield decode_reply(route.reply, line)

    def attach(self, token: str) -> socket.socket:
        """The byte stream, or the lease, that ``token`` stands for. The caller closes it."""
        try:
            sock = self._endpoint.open(self._endpoint.attach)
        except (OSError, TimeoutError) as error:
            raise DaemonUnreachable(f"cannot reach {self._endpoint.attach}: {error.strerror or error}") from error
        try:
            sock.sendall(encode({"token": token}) + b"\n")
            answer: _AttachAnswer = decode_reply(_AttachAnswer, _read_line(sock))
            if not answer.ok:
                raise error_from_body(answer.error) if answer.error else Unauthorized("the daemon refused the stream")
            sock.settimeout(None)
        except OSError as error:
            sock.close()
            raise DaemonUnreachable(f"the daemon gave no answer on {self._endpoint.attach}: {error.strerror or error}") from error
        except BaseException:
            sock.close()
            raise
        return sock

    def close(self) -> None:
        while self._spare:
            self._spare.pop().close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> socket.socket:
        try:
            sock = try_open(self._endpoint)
        except (OSError, TimeoutError) as error:
            raise DaemonUnreachable(f"cannot reach {self._endpoint.api}: {error.strerror or error}") from error
        if sock is not None:
            return sock
        if self._endpoint.system:
            return self._wait_for_system()
        if self._endpoint.layout is None:
            raise NoDaemon(f"nobody listens on {self._endpoint.api}", hint="start its daemon, or unset BANGER_SOCKET to use your own")
        if not self._start:
            raise NoDaemon("no daemon is running", hint="any command that needs one starts it")
        try:
            return start_daemon(self._endpoint.layout)
        except OSError as error:
            raise DaemonUnreachable(f"cannot start the daemon: {error}", hint="`banger doctor` may know more") from error

    def _wait_for_system(self) -> socket.socket:
        """The installed daemon is started by systemd alone, which may be about to do so: after an update, or `banger daemon stop`."""
        until = time.monotonic() + (_SYSTEM_PATIENCE if self._start else 0.0)
        while time.monotonic() < until:
            time.sleep(0.05)
            if sock := try_open(self._endpoint):
                return sock
        raise NoDaemon(f"the system's daemon does not run (nobody listens on {self._endpoint.api})", hint="sudo banger system restart")

    def _exchange(
        self, route: Route, params: Mapping[str, str] | None, request: Request | None, query: Mapping[str, str] | None, timeout: float | None
    ) -> Response:
        """The reply to a request, once its status is known to be good and its version ours."""
        target = _target(route, params or {}, query)
        body = None if route.request is None and request is None else encode(request or {})
        try:
            sock = self._spare.pop()
        except IndexError:
            sock = self._open()
        sock.settimeout(timeout)
        response = exchange(sock, route.method, target, {"Banger-Api-Version": str(API_VERSION), "Banger-Version": __version__}, body)
        try:
            self._check_version(route, response)
            if response.status >= 400:
                raise _with_op_id(decode_error(response.read()), response)
        except BaseException:
            response.close()
            raise
        return response

    def _check_version(self, route: Route, response: Response) -> None:
        version = response.headers.get("banger-version", "unknown")
        if version == __version__:
            self._version_checked = True
        elif route.name not in _ANY_VERSION:
            op_id = response.headers.get("banger-op-id", "")
            hint = "run `banger daemon stop`; the next command starts the new daemon, and your machines keep running"
            if self._endpoint.system:
                hint = "sudo banger system restart; your machines keep running"
            raise BadVersion(f"the daemon is version {version}, this is banger {__version__}", hint=hint, op_id=op_id)

    def _check_version_once(self) -> None:
        """Before something is changed, know that the daemon is ours."""
        if not self._version_checked:
            with _explained(), self._exchange(BY_NAME["daemon.status"], None, None, None, self._timeout) as response:
                self._check_version(BY_NAME["vm.create"], response)

    def _follow(self, route: Route, response: Response, on_event: Callable[[Event], None] | None) -> Any:
        for event in _events(response):
            if event.done:
                if event.error is not None:
                    raise _with_op_id(error_from_body(event.error), response)
                return decode_reply(route.reply, event.result)
            if on_event is not None:
                on_event(event)
        raise DaemonUnreachable("the daemon went away in the middle of the operation", hint="see `banger vm list` for what became of it")

    def _cancel(self, op_id: str) -> None:
        """Ask for a rollback and wait for its end. An error here must not hide the interrupt: the operation has ended, or the daemon has."""
        with suppress(BangerError, OSError):
            self.call("operation.cancel", {"id": op_id})
            with self._exchange(BY_NAME["operation.events"], {"id": op_id}, None, None, CANCEL_TIMEOUT) as response:
                for event in _events(response):
                    if event.done:
                        return


@contextmanager
def _explained() -> Iterator[None]:
    """Turn what a broken or silent connection raises into the error that a user can act on."""
    try:
        yield
    except TimeoutError:
        raise DaemonUnreachable("the daemon does not answer", hint="see `banger daemon status` and its log") from None
    except OSError as error:
        raise DaemonUnreachable(f"the connection to the daemon broke: {error.strerror or error}", hint="try again") from error


def _target(route: Route, params: Mapping[str, str], query: Mapping[str, str] | None) -> str:
    path = route.path
    for name, value in params.items():
        if not value:
            raise BadRequest("an empty name", hint="see `banger vm list` and `banger image list` for names")
        path = path.replace("{" + name + "}", quote(value, safe=""))
    return path + (f"?{urlencode(query)}" if query else "")


def _events(response: Response) -> Iterator[Event]:
    for line in response.lines():
        if line.strip():
            event: Event = decode_reply(Event, line)
            yield event


def _with_op_id(error: BangerError, response: Response) -> BangerError:
    error.op_id = error.op_id or response.headers.get("banger-op-id", "")
    return error


def _read_line(sock: socket.socket) -> bytes:
    """One line and not a byte more: frames may follow it at once."""
    line = b""
    while not line.endswith(b"\n"):
        ahead = sock.recv(_LINE_LIMIT, socket.MSG_PEEK)
        end = ahead.find(b"\n") + 1
        line += sock.recv(end or len(ahead))
        if not ahead or len(line) > _LINE_LIMIT:
            raise ConnectionResetError("it hung up")
    return line
