"""Drivers that run no machine: the VMM is a real process that sleeps, the guest is a task that speaks the real protocol."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from banger.guest.fields import Fields, pack, text, u8, u32, u64
from banger.guest.frames import MAX_FRAME, Frame, FrameReader, FrameType, Operation, encode
from banger.host import process
from banger.host.files import make_sparse
from banger.host.paths import Layout, VMLayout
from banger.host.run import spawn
from banger.image.service import Bootable
from banger.model.errors import CommandFailed, NotFound, VmmError
from banger.model.machine import Disk, MachineConfig
from banger.model.progress import Report
from banger.model.records import ImageRecord, KernelRecord, ProcessIdentity, VMSpec
from banger.net.protocol import Attachment, NetworkPlace
from banger.vmm.protocol import Machine, VmmProbe

IMAGE = ImageRecord(id="i1", name="fake", source="test", path="/nowhere", digest="sha256:0", size_bytes=1, kernel_name="k", created_at=1.0)
KERNEL = KernelRecord(id="k1", name="k", source="test", path="/nowhere", version="6.1", digest="sha256:0", size_bytes=1, created_at=1.0)


@dataclass
class Faults:
    """What shall go wrong."""

    unusable: bool = False
    launch: bool = False
    exit_at_once: bool = False
    network: bool = False
    silent_guest: bool = False
    die_before_hello: bool = False
    refuse_configure: bool = False
    ignore_shutdown: bool = False
    never_booted: bool = False
    detach: bool = False
    deaf: bool = False
    switch: bool = False


@dataclass
class FakeMachine:
    """A sleeping process and, per connection, a guest that answers."""

    process: ProcessIdentity
    world: FakeWorld
    vm_id: str

    async def connect_agent(self) -> socket.socket:
        if not process.is_alive(self.process):
            raise VmmError("nobody listens")
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        self.world.guests.append(asyncio.create_task(FakeGuest(self, theirs).serve()))
        return ours

    async def switch_link(self, *, up: bool) -> None:
        if self.world.faults.switch:
            raise VmmError("QEMU refused")
        self.world.links.append(up)

    async def signal(self, name: str) -> bool:
        return process.send_signal(self.process, signal.Signals[f"SIG{name}"])

    async def end(self) -> None:
        await process.end(self.process)


class FakeGuest:
    """The guest's side of one connection."""

    def __init__(self, machine: FakeMachine, sock: socket.socket) -> None:
        self._machine = machine
        self._world = machine.world
        self._sock = sock
        self._epoch = 1

    async def serve(self) -> None:
        loop = asyncio.get_running_loop()
        reader = FrameReader()
        death = asyncio.create_task(self._wait_dead())
        try:
            with self._sock:
                if self._machine.vm_id not in self._world.greeted and not self._world.faults.silent_guest:
                    self._world.greeted.add(self._machine.vm_id)
                    await self._hello(0)
                while not death.done():
                    receive = asyncio.ensure_future(loop.sock_recv(self._sock, MAX_FRAME))
                    await asyncio.wait((receive, death), return_when=asyncio.FIRST_COMPLETED)
                    if not receive.done():
                        receive.cancel()
                        return
                    data = receive.result()
                    if not data:
                        return
                    for frame in reader.feed(data):
                        await self._answer(frame)
        except OSError:
            return
        finally:
            death.cancel()

    async def _wait_dead(self) -> None:
        """Without reaping it: its exit status is for those who watch the machine."""
        while process.is_alive(self._machine.process):
            await asyncio.sleep(0.01)

    async def _hello(self, nonce: int) -> None:
        await self._send(
            FrameType.HELLO, 0, pack((1, u64(nonce)), (2, u32(1)), (3, u8(0 if nonce == 0 else 2)), (4, text("boot")), (5, text("6.1")), (6, text("fake")))
        )

    async def _answer(self, frame: Frame) -> None:
        faults = self._world.faults
        if faults.deaf:
            return
        if frame.type == FrameType.PING:
            await self._send(FrameType.PONG, 0, bytes(frame.payload))
        elif frame.type == FrameType.ATTACH:
            self._epoch += 1
            await self._hello(Fields.parse(frame.payload).u64(1))
        elif frame.type == FrameType.PING:
            await self._send(FrameType.PONG, 0, bytes(frame.payload))
        elif frame.type == FrameType.EOF and faults.refuse_configure:
            await self._send(FrameType.ERROR, frame.stream, pack((1, text("configure_failed")), (2, text("no disk"))))
        elif frame.type == FrameType.EOF:
            await self._send(FrameType.RESULT, frame.stream, pack((16, u64(1)), (17, text("/sbin/init"))))
            if not faults.never_booted:
                await self._send(FrameType.EVENT, 0, pack((1, text("booted")), (2, text(""))))
        elif frame.type == FrameType.OPEN and (operation := Fields.parse(frame.payload).u32(1)) != Operation.CONFIGURE:
            self._world.operations.append(operation)
            if operation in self._world.silent:
                return
            await self._send(FrameType.RESULT, frame.stream, self._world.answers.get(operation, b""))
            if operation == Operation.SHUTDOWN and not faults.ignore_shutdown:
                await process.end(self._machine.process)

    async def _send(self, kind: FrameType, stream: int, payload: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self._sock, encode(Frame(kind, stream, payload, 0, self._epoch)))


@dataclass
class FakeWorld:
    """All fake drivers of one test, and what they saw."""

    directory: Path
    faults: Faults = field(default_factory=Faults)
    guests: list[asyncio.Task[None]] = field(default_factory=list)
    greeted: set[str] = field(default_factory=set)
    operations: list[int] = field(default_factory=list)
    answers: dict[int, bytes] = field(default_factory=dict)
    """Operation -> fields of its RESULT; none unless said here."""
    silent: set[int] = field(default_factory=set)
    """Operations that the guest never answers."""
    attached: set[str] = field(default_factory=set)
    cards: bool = False
    """A machine with ``nat`` gets a card."""
    links: list[bool] = field(default_factory=list)
    """How links were switched."""
    checks: int = 0
    """How often the VMM was probed."""
    bounded: set[str] = field(default_factory=set)
    looks: int = 0
    """How often all machines were listed."""

    async def close(self) -> None:
        for task in self.guests:
            task.cancel()
        await asyncio.gather(*self.guests, return_exceptions=True)
        for pid in self.processes():
            await process.end(process.identify(pid))

    def processes(self) -> list[int]:
        """Pids of the fake VMMs that still run."""
        marker = self.marker("").encode()
        return [pid for pid, words in process.command_lines() if len(words) == 3 and words[0].endswith(b"sleep") and words[2].startswith(marker)]

    def marker(self, vm_id: str) -> str:
        """A number that ``sleep`` adds to its time and that stands for this test and machine."""
        return f"0.{os.getpid():07}{abs(hash(self.directory)) % 10**9:09}" + (str(int(vm_id, 16)) if vm_id else "")


class FakeVmm:
    """Implements vmm.protocol.Vmm."""

    name = "fake"

    def __init__(self, world: FakeWorld) -> None:
        self._world = world

    async def probe(self, kernel: Path, initramfs: Path) -> VmmProbe:
        self._world.checks += 1
        if self._world.faults.unusable:
            return VmmProbe(usable=False, note="not installed", hint="install it")
        return VmmProbe(usable=True, accelerator="none", note="this is a fake")

    async def launch(self, config: MachineConfig) -> Machine:
        self._world.greeted.discard(config.vm_id)
        child = spawn(["sleep", "100000", self._world.marker(config.vm_id)], output=config.vm_dir / "vmm.log")
        if self._world.faults.launch:
            raise VmmError("half launched")
        if self._world.faults.exit_at_once:
            (config.vm_dir / "vmm.log").write_text("unsupported option\n")
            await process.end(child)
        if self._world.faults.die_before_hello:
            (config.vm_dir / "console.log").write_text("Kernel panic - not syncing: fake\n")
            self._world.faults.silent_guest = True
            asyncio.get_running_loop().call_later(0.1, os.kill, child.pid, 9)
        (config.vm_dir / "agent.sock").touch()
        return FakeMachine(child, self._world, config.vm_id)

    async def adopt(self, vm_id: str, vm_dir: Path) -> Machine | None:
        marker = self._world.marker(vm_id).encode()
        for pid, words in process.command_lines():
            if words[-1] == marker:
                return FakeMachine(process.identify(pid), self._world, vm_id)
        return None

    async def list_machines(self, vms: Path, known: Collection[str]) -> Mapping[str, Machine]:
        self._world.looks += 1
        prefix = self._world.marker("").encode()
        found = [(pid, words[-1].removeprefix(prefix)) for pid, words in process.command_lines() if words[-1].startswith(prefix)]
        ids = [(pid, f"{int(number):032x}") for pid, number in found]
        return {vm_id: FakeMachine(process.identify(pid), self._world, vm_id) for pid, vm_id in ids}

    def bound_logs(self, vm_dir: Path) -> None:
        self._world.bounded.add(vm_dir.name)

    def remove_sockets(self, vm_dir: Path) -> None:
        (vm_dir / "agent.sock").unlink(missing_ok=True)


class FakeRootDisk:
    """Implements storage.protocol.RootDisk."""

    name = "fake"
    root_mode = 1

    async def prepare(self, files: VMLayout, base: Path, spec: VMSpec, uid: int) -> tuple[Disk, ...]:
        if not files.overlay_disk.exists():
            make_sparse(files.overlay_disk, spec.system_overlay_bytes)
        return (Disk(serial="base", path=base, read_only=True), Disk(serial="overlay", path=files.overlay_disk, read_only=False))

    async def grow(self, files: VMLayout, spec: VMSpec, uid: int) -> None:
        if files.overlay_disk.exists():
            os.truncate(files.overlay_disk, spec.system_overlay_bytes)

    async def release(self, files: VMLayout) -> None:
        files.overlay_disk.unlink(missing_ok=True)


class FakeNetwork:
    """Implements net.protocol.Network."""

    def __init__(self, world: FakeWorld) -> None:
        self._world = world

    async def attach(self, vm_id: str, files: VMLayout, place: NetworkPlace, *, nat: bool, uid: int) -> Attachment:
        self._world.attached.add(vm_id)
        if self._world.faults.network:
            raise CommandFailed("half attached")
        return Attachment("fake" if nat and self._world.cards else "none", None, None)

    async def detach(self, vm_id: str, files: VMLayout, place: NetworkPlace) -> None:
        if self._world.faults.detach:
            raise CommandFailed("detach broke")
        self._world.attached.discard(vm_id)


class FakeImages:
    """Stands in for ImageService: one image that needs no files."""

    async def ensure(self, name: str, report: Report, *, credentials: str = "") -> Bootable:
        if name not in ("fake", "debian-bookworm", IMAGE.id):
            raise NotFound(f"no image {name!r}")
        nowhere = Path("/nowhere")
        return Bootable(image=IMAGE, kernel=KERNEL, rootfs=nowhere, kernel_file=nowhere, initramfs=nowhere)

    async def find_leftovers(self) -> tuple[Path, ...]:
        return ()


def layout_below(directory: Path) -> Layout:
    """One instance below a temporary directory."""
    layout = Layout(config=directory / "config", state=directory / "state", cache=directory / "cache", runtime=directory / "run")
    layout.state.mkdir(mode=0o700)
    return layout
