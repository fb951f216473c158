"""A scripted daemon for the tests of the client and the command line: HTTP and attach.sock on threads, no asyncio."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from banger import __version__
from banger.guest.frames import Frame, FrameReader, encode
from banger.host.paths import Layout, private_directory
from banger.host.sockets import listen


@dataclass(frozen=True)
class Call:
    """A request that came in."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body or b"null")


@dataclass(frozen=True)
class Reply:
    """What to answer. ``lines`` makes it a chunked NDJSON stream, sent line by line."""

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    lines: Iterable[Any] | None = None


def failure(status: int, code: str, message: str, **more: str) -> Reply:
    return Reply({"error": {"code": code, "message": message, **more}}, status=status)


class Guest:
    """The far end of one attached stream."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.reader = FrameReader()
        self._ready: list[Frame] = []

    def send(self, kind: int, payload: bytes = b"", channel: int = 0) -> None:
        self.sock.sendall(encode(Frame(kind, 1, payload, channel)))

    def receive(self) -> Frame | None:
        """The next frame of the client; None when it hung up."""
        while not self._ready:
            try:
                data = self.sock.recv(262144)
            except ConnectionResetError:
                return None
            if not data:
                return None
            self._ready += self.reader.feed(data)
        return self._ready.pop(0)


Handler = Callable[[Call], Reply]


class FakeDaemon:
    """Answers ``routes`` ("GET /v1/vms" -> handler or reply) and hands attached streams to ``streams`` (token -> function of a Guest)."""

    def __init__(self, layout: Layout, *, version: str = __version__) -> None:
        self.layout = layout
        self.version = version
        self.routes: dict[str, Reply | Handler] = {}
        self.streams: dict[str, Callable[[Guest], None]] = {}
        self.calls: list[Call] = []
        self.tokens: list[str] = []
        self.ended_streams: list[str] = []
        self._threads: list[threading.Thread] = []
        self._listeners: list[socket.socket] = []
        self._open: set[socket.socket] = set()

    def serve(self) -> None:
        private_directory(self.layout.runtime)
        for path, handle in ((self.layout.api_socket, self._serve_http), (self.layout.attach_socket, self._serve_stream)):
            listener = listen(path)
            self._listeners.append(listener)
            self._thread(self._accept, listener, handle)

    def close(self) -> None:
        listeners, self._listeners = self._listeners, []
        for listener in listeners:
            listener.shutdown(socket.SHUT_RDWR)
        for sock in tuple(self._open):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in tuple(self._threads):
            thread.join(10)
        for listener in listeners:
            listener.close()

    def paths(self) -> list[str]:
        return [f"{call.method} {call.path}" for call in self.calls]

    def _thread(self, target: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket, handle: Callable[[socket.socket], None]) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            self._open.add(sock)
            self._thread(self._run, sock, handle)

    def _run(self, sock: socket.socket, handle: Callable[[socket.socket], None]) -> None:
        try:
            handle(sock)
        except (BrokenPipeError, ConnectionResetError):
            pass
        finally:
            self._open.discard(sock)
            sock.close()

    def _serve_http(self, sock: socket.socket) -> None:
        with sock.makefile("rb") as file:
            words = file.readline().decode().split()
            if not words:
                return
            headers: dict[str, str] = {}
            while line := file.readline().decode().strip():
                name, _, value = line.partition(":")
                headers[name.lower()] = value.strip()
            body = file.read(int(headers.get("content-length", 0)))
        path, _, query = words[1].partition("?")
        call = Call(words[0], path, query, headers, body)
        self.calls.append(call)
        handler = self.routes.get(f"{call.method} {call.path}", failure(404, "not_found", f"no route {call.method} {call.path}"))
        self._answer(sock, handler(call) if callable(handler) else handler)

    def _answer(self, sock: socket.socket, reply: Reply) -> None:
        head = {"Banger-Version": self.version, "Banger-Op-Id": "op-0123456789ab", **reply.headers}
        if reply.lines is None:
            body = json.dumps(reply.body).encode()
            head["Content-Length"] = str(len(body))
        else:
            body = b""
            head["Transfer-Encoding"] = "chunked"
        lines = [f"HTTP/1.1 {reply.status} Status", *(f"{name}: {value}" for name, value in head.items()), "", ""]
        sock.sendall("\r\n".join(lines).encode() + body)
        if reply.lines is not None:
            for line in reply.lines:
                piece = json.dumps(line).encode() + b"\n"
                sock.sendall(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            sock.sendall(b"0\r\n\r\n")

    def _serve_stream(self, sock: socket.socket) -> None:
        line = b""
        while not line.endswith(b"\n"):
            byte = sock.recv(1)
            if not byte:
                return
            line += byte
        token = json.loads(line)["token"]
        self.tokens.append(token)
        stream = self.streams.get(token)
        if stream is None:
            sock.sendall(json.dumps({"ok": False, "error": {"code": "unauthorized", "message": "unknown token"}}).encode() + b"\n")
            return
        sock.sendall(b'{"ok":true}\n')
        stream(Guest(sock))
        self.ended_streams.append(token)


@contextmanager
def running(home: Path, *, version: str = __version__) -> Iterator[FakeDaemon]:
    """A fake daemon for the instance ``BANGER_HOME=home``."""
    daemon = FakeDaemon(Layout.from_environment({"BANGER_HOME": str(home)}), version=version)
    daemon.serve()
    try:
        yield daemon
    finally:
        daemon.close()
