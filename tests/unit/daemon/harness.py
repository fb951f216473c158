"""A real daemon on temporary sockets with scripted services behind it, and a small client."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from banger.daemon.access import Access
from banger.daemon.attach import Opener
from banger.daemon.context import Context
from banger.daemon.leases import Leases
from banger.daemon.lifetime import Daemon
from banger.daemon.operations import Operations
from banger.daemon.tokens import Tokens
from banger.guest.agent import Agent
from banger.guest.frames import Frame, FrameReader, encode
from banger.host import sockets
from banger.host.paths import Layout
from banger.image.housekeeping import Housekeeping
from banger.image.kernels import KernelService
from banger.image.service import ImageService
from banger.image.sources.choose import Wish
from banger.model.config import Config
from banger.model.errors import BangerError, NotFound, NotRunning
from banger.model.limits import SizeDefaults, defaults_for_host
from banger.model.names import new_id
from banger.model.progress import Report
from banger.model.records import ImageConfig, ImageRecord, KernelRecord, VMRecord, VMSpec, VMState
from banger.store import Database
from banger.vm.create import NewVM
from banger.vm.observe import Health, Port, Usage
from banger.vm.published import PublishedPorts
from banger.vm.service import Machines
from banger.vm.ssh_access import SshAccess
from banger.vm.views import VMStatus
from banger.vmm.protocol import Vmm


def record(name: str = "box", **changes: Any) -> VMRecord:
    """A plausible record."""
    now = time.time()
    plain = VMRecord(
        id=new_id(),
        name=name,
        image_id="i" * 32,
        image_name="debian-bookworm",
        state=VMState.RUNNING,
        created_at=now,
        updated_at=now,
        touched_at=now,
        spec=VMSpec(vcpu_count=2, memory_mib=512, system_overlay_bytes=1 << 30, work_disk_bytes=1 << 30),
    )
    return replace(plain, **changes)


@dataclass
class FakeForwarded:
    """The guest's side of a stream, as the test plays it."""

    on_frame: Callable[[Frame], None]
    on_lost: Callable[[], None]
    operation: int
    request: bytes
    received: list[Frame] = field(default_factory=list)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    may_take: asyncio.Event = field(default_factory=asyncio.Event)
    error: BangerError | None = None

    def __post_init__(self) -> None:
        self.may_take.set()

    async def send(self, frame: Frame) -> None:
        if self.error is not None:
            raise self.error
        await self.may_take.wait()
        self.received.append(frame)

    def cancel(self) -> None:
        self.cancelled.set()


@dataclass
class FakeAgent:
    """Hands out scripted streams."""

    streams: list[FakeForwarded] = field(default_factory=list)
    refusal: BangerError | None = None

    def forward(self, operation: int, request: bytes, on_frame: Callable[[Frame], None], on_lost: Callable[[], None]) -> FakeForwarded:
        if self.refusal is not None:
            raise self.refusal
        self.streams.append(FakeForwarded(on_frame, on_lost, operation, request))
        return self.streams[-1]


class FakeMachines:
    """Machines whose verbs wait at gates that the test opens."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.records: dict[str, VMRecord] = {}
        self.the_agent = FakeAgent()
        self.new: list[NewVM] = []
        self.may_reserve = asyncio.Event()
        self.may_boot = asyncio.Event()
        self.reserved = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.deleted = asyncio.Event()
        self.delete_errors: list[BaseException] = []
        self.recovering: asyncio.Event | None = None
        self.error: BaseException | None = None
        self.closed = False
        self.config = Config()
        self.touched: list[str] = []
        self.streams: list[str] = []
        """Ids of the machines that open streams lead to."""
        self.the_usage: Usage | None = None
        self.may_reserve.set()
        self.may_boot.set()

    def add(self, **changes: Any) -> VMRecord:
        one = record(**changes)
        self.records[one.id] = one
        return one

    async def create(self, new: NewVM, report: Report, on_reserved: Callable[[VMRecord], None]) -> VMRecord:
        self.new.append(new)
        try:
            report("resolve_image", new.image)
            await self.may_reserve.wait()
            one = self.add(name=new.name or "generated", remove=new.remove)
            on_reserved(one)
            self.reserved.set()
            report("reserve_vm", one.name, progress=0.5)
            await self.may_boot.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        if self.error is not None:
            raise self.error
        return one

    async def start(self, ref: str, *, wait_booted: bool, report: Report) -> VMRecord:
        report("vmm_launch", f"booted={wait_booted}")
        return replace(self.find(ref), state=VMState.RUNNING)

    restart = start

    async def stop(self, ref: str, *, timeout: float, report: Report) -> VMRecord:
        report("shutdown", f"timeout={timeout}")
        return replace(self.find(ref), state=VMState.STOPPED)

    async def kill(self, ref: str, *, signal: str, report: Report) -> VMRecord:
        report("kill", signal)
        return replace(self.find(ref), state=VMState.STOPPED)

    async def delete(self, ref: str, *, report: Report) -> VMRecord:
        if self.delete_errors:
            raise self.delete_errors.pop(0)
        one = self.records.pop(self.find(ref).id)
        self.deleted.set()
        return one

    def count_running(self) -> int:
        return sum(record.state is VMState.RUNNING and not record.remove for record in self.records.values())

    def list(self) -> tuple[VMRecord, ...]:
        return tuple(self.records.values())

    def find(self, ref: str) -> VMRecord:
        if self.error is not None:
            raise self.error
        for one in self.records.values():
            if ref in (one.id, one.name):
                return one
        raise NotFound(f"no VM {ref!r}", hint="banger vm list shows all")

    def status(self, ref: str) -> VMStatus:
        one = self.find(ref)
        return VMStatus(
            record=one,
            alive=True,
            pid=4711,
            directory=self.directory,
            console_log=self.directory / "console.log",
            vmm_log=self.directory / "vmm.log",
            overlay_allocated_bytes=1,
            work_allocated_bytes=2,
            hello=None,
        )

    def agent(self, ref: str) -> Agent:
        if self.find(ref).state is not VMState.RUNNING:
            raise NotRunning(f"{ref} is not running", hint=f"banger vm start {ref}")
        return cast(Agent, self.the_agent)

    def log_file(self, ref: str, which: str) -> Path:
        self.find(ref)
        return self.directory / f"{which}.log"

    def defaults(self) -> SizeDefaults:
        return defaults_for_host(8, 16 << 30)

    def touch(self, ref: str) -> VMRecord:
        self.touched.append(self.find(ref).name)
        return self.find(ref)

    def note_use(self, vm_id: str) -> None:
        self.touch(vm_id)

    def open_stream(self, ref: str) -> Callable[[], None]:
        one = self.find(ref)
        self.streams.append(one.id)
        return lambda: self.streams.remove(one.id)

    async def usage(self, ref: str) -> Usage:
        return self.the_usage or Usage(record=self.find(ref), collected_at=1.0, overlay_allocated=1, work_allocated=2)

    async def health(self, ref: str) -> Health:
        return Health(name=self.find(ref).name, alive=True, healthy=True, guest_state="booted", round_trip=0.001)

    async def ports(self, ref: str, *, probe: bool = True) -> tuple[Port, ...]:
        self.find(ref)
        status = 200 if probe else None
        return (Port(protocol="tcp", addresses=("0.0.0.0", "::"), port=80, process="nginx", command="nginx -g", http_status=status),)

    async def recover(self) -> None:
        if self.recovering is not None:
            await self.recovering.wait()

    async def close(self) -> None:
        self.closed = True


class FakeImages:
    """Images that take as long as the test wants."""

    def __init__(self) -> None:
        self.may_finish = asyncio.Event()
        self.pulling = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.wishes: list[Wish] = []
        self.image = ImageRecord(id="i" * 32, name="debian-bookworm", source="x", path="/x", digest="sha256:0", size_bytes=1, kernel_name="k", created_at=1.0)

    async def pull(self, wish: Wish, report: Report, *, name: str = "") -> ImageRecord:
        self.wishes.append(wish)
        report("auto_pull_image", wish.text, progress=0.1)
        self.pulling.set()
        try:
            await self.may_finish.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return self.image

    async def settle(self) -> None:
        pass

    def list(self) -> tuple[ImageRecord, ...]:
        return (self.image,)

    async def show(self, name: str) -> ImageRecord:
        if name != self.image.name:
            raise NotFound(f"no image {name!r}")
        return self.image

    def config_of(self, image_id: str) -> ImageConfig:
        return ImageConfig()

    async def delete(self, name: str) -> ImageRecord:
        return await self.show(name)

    async def catalog(self) -> tuple[Any, ...]:
        return ()


class FakeKernels:
    """No kernels."""

    def list(self) -> tuple[KernelRecord, ...]:
        return ()

    def show(self, name: str) -> KernelRecord:
        raise NotFound(f"no kernel {name!r}")


@dataclass
class Running:
    """A daemon that runs in this very loop."""

    layout: Layout
    machines: FakeMachines
    images: FakeImages
    daemon: Daemon
    task: asyncio.Task[BangerError | None]

    @property
    def context(self) -> Context:
        assert self.daemon._context is not None
        return self.daemon._context

    async def call(self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None) -> Reply:
        """One request on a connection of its own, in a thread."""
        return await asyncio.to_thread(request, self.layout.api_socket, method, path, body, headers)

    async def attach(self) -> Wire:
        reader, writer = await asyncio.open_unix_connection(str(self.layout.attach_socket), limit=1 << 20)
        return Wire(reader, writer)

    async def stop(self) -> BangerError | None:
        self.daemon.request_stop()
        return await self.task


@dataclass
class Reply:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        return cast(dict[str, Any], self.json["error"])

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.body.splitlines()]


class UnixConnection(http.client.HTTPConnection):
    """HTTP on a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=20)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(20)
        self.sock.connect(str(self._path))


@contextlib.contextmanager
def connection(path: Path) -> Iterator[UnixConnection]:
    one = UnixConnection(path)
    try:
        yield one
    finally:
        one.close()


def request(path: Path, method: str, url: str, body: object = None, headers: dict[str, str] | None = None) -> Reply:
    """One request; ``body`` is sent as it is when it is bytes, else as JSON."""
    raw = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    with connection(path) as one:
        one.request(method, url, body=raw, headers=headers or {})
        response = one.getresponse()
        return Reply(response.status, response.headers, response.read())


@dataclass
class Wire:
    """A client on attach.sock."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    frames: FrameReader = field(default_factory=FrameReader)
    pending: list[Frame] = field(default_factory=list)

    async def hello(self, token: str) -> dict[str, Any]:
        return await self.say(json.dumps({"token": token}).encode() + b"\n")

    async def say(self, line: bytes) -> dict[str, Any]:
        self.writer.write(line)
        return cast(dict[str, Any], json.loads(await self.reader.readline()))

    async def send(self, *frames: Frame) -> None:
        for frame in frames:
            self.writer.write(encode(frame))
        await self.writer.drain()

    async def frame(self) -> Frame | None:
        """The next frame, None at the end."""
        while not self.pending:
            data = await self.reader.read(262144)
            if not data:
                return None
            self.pending += self.frames.feed(data)
        return self.pending.pop(0)

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


@asynccontextmanager
async def running(home: Path, prepare: Callable[[FakeMachines, FakeImages], None] = lambda machines, images: None) -> AsyncIterator[Running]:
    """A daemon below ``home``, stopped at the end."""
    layout = Layout.from_environment({"BANGER_HOME": str(home)})
    for path in (layout.state, layout.runtime):
        path.mkdir(parents=True, mode=0o700)
    machines, images = FakeMachines(home), FakeImages()
    prepare(machines, images)

    def compose(layout: Layout, tokens: Tokens[Opener]) -> Context:
        return Context(
            layout=layout,
            database=Database.open(layout.database),
            machines=cast(Machines, machines),
            images=cast(ImageService, images),
            kernels=cast(KernelService, FakeKernels()),
            housekeeping=cast(Housekeeping, None),
            vmm=cast(Vmm, None),
            operations=Operations(),
            leases=Leases(cast(Machines, machines), retries=(0.0, 0.0)),
            tokens=tokens,
            access=Access(SshAccess(layout), PublishedPorts(machines.agent, machines.open_stream, lambda _vm, _why: None)),
        )

    daemon = Daemon(layout, compose)
    task = asyncio.create_task(daemon.run(sockets.listen(layout.api_socket), sockets.listen(layout.attach_socket)))
    one = Running(layout, machines, images, daemon, task)
    try:
        yield one
    finally:
        await one.stop()
