"""Drivers without machines for whole daemons: the VMM is a small program that outlives the daemon and plays the guest too (vmm.c)."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

from banger.host import process, sockets
from banger.host.paths import VMLayout
from banger.host.run import find_tool, spawn
from banger.host.threads import run_to_end
from banger.image.service import Bootable, ImageService
from banger.model.errors import VmmError
from banger.model.machine import MachineConfig
from banger.model.progress import Report
from banger.model.records import ImageRecord, KernelRecord, ProcessIdentity
from banger.net.protocol import Attachment, NetworkPlace
from banger.vmm.protocol import VmmProbe

IMAGE = ImageRecord(id="i1", name="fake", source="test", path="/nowhere", digest="sha256:0", size_bytes=1, kernel_name="k", created_at=1.0)
KERNEL = KernelRecord(id="k1", name="k", source="test", path="/nowhere", version="6.1", digest="sha256:0", size_bytes=1, created_at=1.0)
_SOURCE = Path(__file__).with_name("vmm.c")
_BUILD = Path(__file__).parents[2] / "guest/build"


@cache
def fake_vmm() -> Path:
    """The compiled vmm.c, made where it is missing."""
    program = _BUILD / f"fake-vmm-{hashlib.sha256(_SOURCE.read_bytes()).hexdigest()[:12]}"
    if not program.exists():
        program.parent.mkdir(exist_ok=True)
        made = program.with_name(f"{program.name}.{os.getpid()}")
        subprocess.run([find_tool("cc"), "-O2", "-Wall", "-Wextra", "-Werror", "-o", made, _SOURCE], check=True)
        made.rename(program)
    return program


@dataclass(slots=True)
class FakeMachine:
    """A running vmm.c."""

    process: ProcessIdentity
    vm_dir: Path

    async def connect_agent(self) -> socket.socket:
        try:
            return sockets.connect(VMLayout(self.vm_dir).agent_socket, timeout=0)
        except OSError as error:
            raise VmmError(f"nobody listens: {error}") from error

    async def switch_link(self, *, up: bool) -> None:
        await asyncio.sleep(0)

    async def signal(self, name: str) -> bool:
        return process.send_signal(self.process, signal.Signals[f"SIG{name}"])

    async def end(self) -> None:
        await process.end(self.process)


class FakeVmm:
    """Implements vmm.protocol.Vmm. ``faults`` are the words that vmm.c knows, for machines launched from now on."""

    name = "fake"

    def __init__(self, faults: str = "") -> None:
        self.faults = faults
        self.may_spawn = threading.Event()
        """While it is not set, who launches waits just before there is a process."""
        self.may_spawn.set()

    async def probe(self, kernel: Path, initramfs: Path) -> VmmProbe:
        return VmmProbe(usable=True, binary=str(fake_vmm()), version="0", accelerator="none")

    async def inspect(self) -> VmmProbe:
        return await self.probe(Path(), Path())

    async def launch(self, config: MachineConfig) -> FakeMachine:
        """As QEMU's driver does it: in a thread; socket and disks are handed over as descriptors."""
        return await run_to_end(self._start, config)

    def _start(self, config: MachineConfig) -> FakeMachine:
        files = VMLayout(config.vm_dir)
        with contextlib.ExitStack() as opened:
            listener = opened.enter_context(sockets.listen(files.agent_socket, backlog=8))
            disks = [os.open(disk.path, os.O_RDWR | os.O_CLOEXEC) for disk in config.disks if not disk.read_only]
            for fd in disks:
                opened.callback(os.close, fd)
            files.console_log.touch(mode=0o600)
            self.may_spawn.wait(10)
            words = [str(fake_vmm()), "-name", name_of(config.vm_id), "-agent", str(listener.fileno()), "-faults", self.faults or "none"]
            return FakeMachine(spawn(words, output=files.vmm_log, pass_fds=[listener.fileno(), *disks]), config.vm_dir)

    async def adopt(self, vm_id: str, vm_dir: Path) -> FakeMachine | None:
        found = running(vm_id)
        return FakeMachine(process.identify(found[0]), vm_dir) if found else None

    async def list_machines(self, vms: Path, known: Collection[str]) -> dict[str, FakeMachine]:
        """One look for all, as QEMU's driver does it."""
        prefix = name_of("").encode()
        named = [(pid, word.removeprefix(prefix).decode()) for pid, words in process.command_lines() for word in words if word.startswith(prefix)]
        return {vm_id: FakeMachine(process.identify(pid), vms / vm_id) for pid, vm_id in named if process.holds_below(pid, vms / vm_id)}

    def remove_sockets(self, vm_dir: Path) -> None:
        VMLayout(vm_dir).agent_socket.unlink(missing_ok=True)


def name_of(vm_id: str) -> str:
    """The argument that tells a fake VMM from others."""
    return f"banger-{vm_id}"


def running(vm_id: str) -> list[int]:
    """Pids of the fake VMMs of a machine."""
    name = name_of(vm_id).encode()
    return [pid for pid, words in process.command_lines() if name in words]


class FakeNetwork:
    """Implements net.protocol.Network: an attached machine has a file below ``directory``, a half attached one a second file."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.gate = asyncio.Event()
        """While it is not set, who attaches waits halfway."""
        self.gate.set()

    async def attach(self, vm_id: str, files: VMLayout, place: NetworkPlace, *, nat: bool, uid: int) -> Attachment:
        self.directory.mkdir(parents=True, exist_ok=True)
        half = self.directory / f"{vm_id}.half"
        half.touch()
        await asyncio.sleep(0)
        await self.gate.wait()
        half.rename(self.directory / vm_id)
        return Attachment("fake" if nat else "none", None, None)

    async def detach(self, vm_id: str, files: VMLayout, place: NetworkPlace) -> None:
        (self.directory / f"{vm_id}.half").unlink(missing_ok=True)
        await asyncio.sleep(0)
        (self.directory / vm_id).unlink(missing_ok=True)

    def attached(self) -> set[str]:
        """What is attached, wholly or half."""
        return {path.name for path in self.directory.iterdir()} if self.directory.exists() else set()


class FakeImages(ImageService):
    """One image, whatever is asked for; it needs no files."""

    async def ensure(self, name: str, report: Report, *, credentials: str = "") -> Bootable:
        if self._images.get(IMAGE.name) is None:
            self._images.insert(IMAGE)
        nowhere = Path(os.devnull)
        return Bootable(image=IMAGE, kernel=KERNEL, rootfs=nowhere, kernel_file=nowhere, initramfs=nowhere)


async def _no_filesystem(file: Path, *_options: Any, **_keywords: Any) -> None:
    await asyncio.sleep(0)


@contextmanager
def fake_disks() -> Iterator[None]:
    """The real disk drivers, without the 20 ms that mke2fs takes."""
    with patch("banger.storage.ext4.make_filesystem", _no_filesystem):
        yield
