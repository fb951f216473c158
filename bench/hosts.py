"""What the measures run on: an instance of their own with the real image, and a machine started by nothing but QEMU."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from banger.guest.frames import FrameReader, FrameType
from banger.guest.initramfs import build_initramfs
from banger.guest.program import guest_program
from banger.host import facts
from banger.host.paths import Layout, VMLayout
from banger.host.run import find_tool
from banger.host.sockets import connect, listen
from banger.model.limits import defaults_for_host
from banger.model.machine import MachineConfig
from banger.model.names import new_id
from banger.model.records import VMSpec
from banger.storage.overlay import OverlayDisk
from banger.storage.workdisk import prepare_work_disk
from banger.vmm.qemu.command import FASTEST_TCG_CPU, Descriptors, Processor, machine_command
from banger.vmm.qemu.driver import BINARY
from tests.e2e.instance import IMAGE, Instance

HELLO_DEADLINE = 60.0


@contextmanager
def instance() -> Iterator[Instance]:
    """A warm instance: image built, initramfs cached, accelerator probed, daemon running. BANGER_BENCH_HOME=DIR keeps it."""
    kept = os.environ.get("BANGER_BENCH_HOME")
    home = Path(kept) if kept else Path(tempfile.mkdtemp(prefix="banger-bench-", dir="/var/tmp"))
    home.mkdir(exist_ok=True)
    home.chmod(0o755)
    found = Instance(home / "home")
    try:
        print("building the image where it is missing", file=sys.stderr)
        found.ok("image", "pull", IMAGE, timeout=900)
        found.ok("vm", "run", "--rm", "--", "true")
        yield found
    finally:
        found.delete_everything()
        if not kept:
            shutil.rmtree(home)


@contextmanager
def machine(instance: Instance) -> Iterator[str]:
    """Name of a booted machine that has come to rest."""
    name = "bench"
    instance.ok("vm", "run", "-d", "--name", name, "--wait", "booted")
    try:
        time.sleep(5)
        yield name
    finally:
        instance.ok("vm", "delete", name)


def spec_like_the_default() -> VMSpec:
    """The sizes that `banger vm run` takes here."""
    sizes = defaults_for_host(facts.cpu_count(), facts.memory_bytes())
    return VMSpec(
        vcpu_count=sizes.vcpu_count, memory_mib=sizes.memory_mib, system_overlay_bytes=sizes.system_overlay_bytes, work_disk_bytes=sizes.work_disk_bytes
    )


@dataclass(frozen=True)
class BareMachine:
    """QEMU as a person would start it, with the driver's own arguments, the same kernel, initramfs and disks; and its agent's channel."""

    process: subprocess.Popen[bytes]
    agent: socket.socket
    started: float

    def hello(self) -> float:
        """Seconds from spawn until the guest's hello has arrived."""
        reader = FrameReader()
        self.agent.settimeout(HELLO_DEADLINE)
        while chunk := self.agent.recv(65536):
            if any(frame.type == FrameType.HELLO for frame in reader.feed(chunk)):
                return time.perf_counter() - self.started
        raise RuntimeError("QEMU ended before the guest said hello")


@contextmanager
def bare_machine(instance: Instance, accelerator: str) -> Iterator[BareMachine]:
    """A machine without banger around it; its disks are made before the clock starts, and it is killed at the end."""
    layout = Layout.from_environment({"BANGER_HOME": str(instance.home)})
    image, kernel = instance.json("image", "show", IMAGE), instance.json("kernel", "show", "debian-cloud")
    initramfs = build_initramfs(Path(kernel["path"]), guest_program(), layout.initramfs_cache)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="banger-bare-", dir="/var/tmp")))
        files, spec = VMLayout(directory), spec_like_the_default()
        disks = (*asyncio.run(OverlayDisk().prepare(files, Path(image["path"], "rootfs.ext4"), spec, -1)), asyncio.run(prepare_work_disk(files, spec, -1)))
        config = MachineConfig(
            vm_id=new_id(),
            vm_dir=directory,
            vcpu_count=spec.vcpu_count,
            memory_mib=spec.memory_mib,
            kernel=Path(kernel["path"], "vmlinux"),
            initramfs=initramfs,
            disks=disks,
            card=None,
            uid=-1,
        )

        def opened(path: Path, flags: int) -> int:
            fd = os.open(path, flags, 0o600)
            stack.callback(os.close, fd)
            return fd

        sockets = [stack.enter_context(listen(path)) for path in (files.agent_socket, files.control_socket)]
        fds = Descriptors(
            kernel=opened(config.kernel, os.O_RDONLY),
            initramfs=opened(config.initramfs, os.O_RDONLY),
            disks=tuple(opened(disk.path, os.O_RDONLY if disk.read_only else os.O_RDWR) for disk in disks),
            console=opened(files.console_log, os.O_WRONLY | os.O_CREAT | os.O_APPEND),
            agent=sockets[0].fileno(),
            control=sockets[1].fileno(),
            network=None,
        )
        model = "host" if accelerator == "kvm" else FASTEST_TCG_CPU
        argv = machine_command(find_tool(BINARY), config, Processor(accelerator=accelerator, model=model, tsc_khz=facts.tsc_khz()), fds)
        inherited = [int(fd) for fd in (fds.kernel, fds.initramfs, *fds.disks, fds.console, fds.agent, fds.control)]
        started = time.perf_counter()
        process = subprocess.Popen(argv, pass_fds=inherited, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            with connect(files.agent_socket, timeout=HELLO_DEADLINE) as agent:
                yield BareMachine(process, agent, started)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()


def accelerator_of(instance: Instance) -> str:
    """What the driver runs machines with here."""
    instance.ok("vm", "run", "-d", "--name", "probe")
    try:
        accelerator: str = instance.json("vm", "show", "probe")["record"]["runtime"]["accelerator"]
        return accelerator
    finally:
        instance.ok("vm", "delete", "probe")
