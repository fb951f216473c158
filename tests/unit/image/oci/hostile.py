"""A registry that does what a test tells it to: stalls, drops, lies, redirects. Where it is told nothing it behaves."""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from banger.image.oci.patience import Patience
from tests.ociimages import OciImage


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: dict[str, str]
    """Names are lower case."""

    @property
    def name(self) -> str:
        """Last part of the path: a tag or a digest."""
        return self.path.partition("?")[0].rpartition("/")[2]

    @property
    def is_blob(self) -> bool:
        return "/blobs/" in self.path


@dataclass(frozen=True)
class Reply:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    length: int | None = None
    """What Content-Length says; -1 = there is none and the connection's end is that of the body."""
    sent: int | None = None
    """So many bytes of the body are sent, then the connection ends."""
    stall: bool = False
    """After these bytes nothing more comes."""


@dataclass
class HostileRegistry:
    image: OciImage
    answer: Callable[[Request], Reply | None] = lambda _: None
    requests: list[Request] = field(default_factory=list)
    host: str = ""

    def blob_requests(self, digest: str) -> list[Request]:
        return [request for request in self.requests if request.is_blob and request.name == digest]

    def proper(self, request: Request) -> Reply:
        """What a registry answers."""
        if request.path == "/v2/":
            return Reply()
        if "/manifests/" in request.path:
            document = self.image.blobs.get(request.name, self.image.manifest)
            return Reply(body=document, headers={"Docker-Content-Digest": self.image.digest, "Content-Type": "application/vnd.oci.image.manifest.v1+json"})
        blob = self.image.blobs.get(request.name)
        if blob is None:
            return Reply(404, b'{"errors":[{"code":"BLOB_UNKNOWN","message":"unknown blob"}]}')
        if match := re.fullmatch(r"bytes=([0-9]+)-", request.headers.get("range", "")):
            start = int(match[1])
            return Reply(206, blob[start:], {"Content-Range": f"bytes {start}-{len(blob) - 1}/{len(blob)}"})
        return Reply(body=blob)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while await self._serve_one(reader, writer):
                pass
        writer.close()
        with contextlib.suppress(ConnectionError, ssl.SSLError, asyncio.CancelledError):
            await writer.wait_closed()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        first = await reader.readexactly(1)
        if first == b"\x16":  # a TLS client hello at a door without TLS
            return False
        head = (first + await reader.readuntil(b"\r\n\r\n")).decode()
        line, *rest = head.strip().split("\r\n")
        method, path, _ = line.split(" ")
        headers = {name.strip().lower(): value.strip() for name, _, value in (one.partition(":") for one in rest)}
        request = Request(method, path, headers)
        self.requests.append(request)
        reply = self.answer(request) or self.proper(request)
        return await _send(writer, request, reply)


async def _send(writer: asyncio.StreamWriter, request: Request, reply: Reply) -> bool:
    length = len(reply.body) if reply.length is None else reply.length
    lines = [f"HTTP/1.1 {reply.status} Told", *(f"{name}: {value}" for name, value in reply.headers.items())]
    lines += [f"Content-Length: {length}"] if length >= 0 else ["Connection: close"]
    writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
    if request.method != "HEAD":
        writer.write(reply.body if reply.sent is None else reply.body[: reply.sent])
    await writer.drain()
    if reply.stall:
        await asyncio.sleep(3600)
    return length >= 0 and reply.sent is None


@asynccontextmanager
async def hostile(
    image: OciImage, answer: Callable[[Request], Reply | None] = lambda _: None, *, tls: ssl.SSLContext | None = None
) -> AsyncIterator[HostileRegistry]:
    """Such a registry for as long as the block lasts."""
    registry = HostileRegistry(image, answer)
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        await registry._serve(reader, writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    registry.host = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield registry
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


class Waits:
    """Patience that does not wait, but remembers how long it would have."""

    def __init__(self, *, stall: float = 30.0, attempts: int = 5) -> None:
        self.seconds: list[float] = []
        self.patience = Patience(stall=stall, attempts=attempts, sleep=self._sleep)

    async def _sleep(self, seconds: float) -> None:
        self.seconds.append(seconds)
