"""The QEMU driver: launches microvm machines as processes of their own that outlive us, and finds them again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ...helper.protocol import Launch
from ...host import facts, process, sockets
from ...host.files import bound_log
from ...host.kvm import KVM_DEVICE
from ...host.paths import VMLayout
from ...host.run import find_tool
from ...host.tap import open_tap
from ...host.threads import run_to_end
from ...model.errors import BangerError, CommandFailed, MissingTool, NotFound, VmmError
from ...model.machine import GroupUsage, Limits, MachineConfig, NetworkCard
from ...model.records import ProcessIdentity, VMSpec
from ..launcher import DirectLauncher, Launcher
from ..protocol import VmmProbe
from .command import FASTEST_TCG_CPU, NETWORK, Descriptors, Processor, machine_command, machine_name, translates_in_parallel
from .limits import bounds_of
from .probe import Prober, kvm_access, version_of
from .qmp import Qmp

BINARY: Final = "qemu-system-x86_64"
CONSOLE_LIMIT: Final = 8 * 1024 * 1024
_NOBODY: Final = 65534
_PLACE: Final = re.compile(r"\b[RE]IP=([0-9a-f]+).*?\bHLT=([01])")
_NAME: Final = re.compile(machine_name("(?P<vm_id>[0-9a-f]{32})").encode())


@dataclass(slots=True)
class QemuMachine:
    """A running QEMU process."""

    process: ProcessIdentity
    vm_dir: Path
    launcher: Launcher = field(compare=False, repr=False)

    async def connect_agent(self) -> socket.socket:
        """A fresh non-blocking connection to the guest's agent port. Raises VmmError when nobody listens."""
        try:
            return sockets.connect(VMLayout(self.vm_dir).agent_socket, timeout=0)
        except OSError as error:
            raise VmmError(f"cannot connect to the guest's agent channel: {error}") from error

    async def connect_control(self) -> Qmp:
        """A QMP session with this machine; the caller closes it. Raises VmmError."""
        return await Qmp.connect(VMLayout(self.vm_dir).control_socket)

    async def switch_link(self, *, up: bool) -> None:
        """Connect the card or cut it off: with its link down QEMU drops what comes from either side (net/net.c), and tells the guest."""
        control = await self.connect_control()
        try:
            await control.execute("set_link", {"name": NETWORK, "up": up})
        finally:
            await control.close()

    async def is_out_of_space(self) -> bool:
        """Whether QEMU has paused the guest for a write that failed (``io-error``; with our ``werror`` only ENOSPC does that)."""
        return bool((await self._ask("query-status")).get("status") == "io-error")

    async def go_on(self) -> None:
        """Let the guest run; QEMU tries the failed writes again first."""
        await self._ask("cont")

    async def processors(self) -> str:
        """Where each CPU of the guest is. A CPU that spins is caught at a random place of its loop."""
        control = await self.connect_control()
        try:
            registers = str(await control.execute("human-monitor-command", {"command-line": "info registers -a"}))
        finally:
            await control.close()
        found = _PLACE.findall(registers)
        return ", ".join(f"{number} {'halted' if halted == '1' else 'runs'} at {place}" for number, (place, halted) in enumerate(found))

    async def _ask(self, command: str) -> dict[str, Any]:
        control = await self.connect_control()
        try:
            answer = await control.execute(command)
        finally:
            await control.close()
        return answer if isinstance(answer, dict) else {}

    async def signal(self, name: str) -> bool:
        """Signal the process; False when it is gone."""
        return await self.launcher.signal(self.vm_dir.name, self.process, name)

    async def end(self) -> None:
        """Kill the process and wait until it is gone. A graceful stop has already synced the guest's disks."""
        if process.is_alive(self.process):
            await self.signal("KILL")
        await process.wait_exit(self.process)


class QemuVmm:
    """Vmm that runs QEMU's ``microvm`` machine under KVM, or under TCG where KVM does not work."""

    name = "qemu"

    def __init__(
        self, cache: Path, *, launcher: Launcher | None = None, cpu_model: str | None = None, parallel: bool | None = None, kvm_device: Path = KVM_DEVICE
    ) -> None:
        """``cache`` keeps what was probed. ``launcher`` starts the processes, by default without bounds of their own.

        ``cpu_model`` replaces the CPU that would be chosen, e.g. ``max`` for nested virtualisation under TCG; ``parallel`` whether emulated CPUs run at once.
        """
        self._launcher = launcher or DirectLauncher(kvm_device=kvm_device)
        self._cpu_model = cpu_model
        self._parallel = parallel
        self._kvm_device = kvm_device
        self._prober = Prober(cache, device=kvm_device)

    async def probe(self, kernel: Path, initramfs: Path) -> VmmProbe:
        """Binary, version and accelerator. When we are root this is what an unprivileged VMM gets, for that is how machines run."""
        try:
            return await self._prober.probe(find_tool(BINARY), kernel, initramfs, _unprivileged())
        except MissingTool as error:
            return VmmProbe(usable=False, note=error.message, hint=error.hint)

    async def inspect(self) -> VmmProbe:
        """Binary, version, and ``tcg`` where the KVM device cannot even be opened."""
        try:
            binary = find_tool(BINARY)
            version = await version_of(binary)
        except (MissingTool, VmmError) as error:
            return VmmProbe(usable=False, note=error.message, hint=error.hint)
        access = kvm_access(_unprivileged(), self._kvm_device)
        accelerator = "" if access.allowed else "tcg"
        return VmmProbe(usable=True, binary=str(binary), version=version, accelerator=accelerator, note=access.note, hint=access.hint)

    async def launch(self, config: MachineConfig) -> QemuMachine:
        """Start the machine. What QEMU itself has to say goes to the VM's VMM log. Raises VmmError or MissingTool."""
        binary = find_tool(BINARY)
        probe = await self._prober.probe(binary, config.kernel, config.initramfs, config.uid if os.geteuid() == 0 else -1)
        if not probe.usable:
            raise VmmError(probe.note, hint=probe.hint)
        model = self._cpu_model or ("host" if probe.accelerator == "kvm" else FASTEST_TCG_CPU)
        parallel = translates_in_parallel(probe.version) if self._parallel is None else self._parallel
        processor = Processor(accelerator=probe.accelerator, model=model, tsc_khz=facts.tsc_khz(), parallel=parallel)
        return QemuMachine(await self._start(binary, config, processor), config.vm_dir, self._launcher)

    async def _start(self, binary: Path, config: MachineConfig, processor: Processor) -> ProcessIdentity:
        files = VMLayout(config.vm_dir)
        with contextlib.ExitStack() as opened:
            try:
                fds = await run_to_end(_open_files, config, files, opened)
                inherited = _all(fds)
                log = _open(opened, files.vmm_log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
                arguments = tuple(machine_command(binary, config, processor, _words(fds, inherited))[1:])
                kvm = processor.accelerator == "kvm"
                launch = Launch(vm_id=config.vm_id, program="qemu", arguments=arguments, uid=config.uid, limits=config.limits, kvm=kvm)
                return await self._launcher.launch(launch, (*inherited, log))
            except OSError as error:
                self.remove_sockets(config.vm_dir)
                raise VmmError(f"cannot start QEMU: {error}", hint="see the daemon's log") from error
            except BangerError:
                self.remove_sockets(config.vm_dir)
                raise

    async def adopt(self, vm_id: str, vm_dir: Path) -> QemuMachine | None:
        """The running machine of this VM: the process in its bounds, or the process of ours that bears its name."""
        found = (await self._launcher.list()).get(vm_id) or await asyncio.to_thread(_find, vm_id, vm_dir)
        return QemuMachine(found, vm_dir, self._launcher) if found else None

    async def list_machines(self, vms: Path, known: Collection[str]) -> Mapping[str, QemuMachine]:
        """All running machines of the instance whose machines lie below ``vms``: those in bounds, and with one look at the process list the others."""
        found = {**await asyncio.to_thread(_list, vms, frozenset(known)), **await self._launcher.list()}
        return {vm_id: QemuMachine(process, vms / vm_id, self._launcher) for vm_id, process in found.items()}

    @property
    def own_uids(self) -> bool:
        """Whether every machine gets a uid of its own."""
        return self._launcher.own_uids

    def enforced(self) -> frozenset[str]:
        """What the launcher's bounds hold, and the disks, which QEMU itself slows down. It has nothing for the network."""
        return self._launcher.enforced() | {"disk"}

    def bounds_of(self, spec: VMSpec, accelerator: str) -> Limits:
        """The limits of a machine that is so big."""
        return bounds_of(spec, accelerator)

    async def limit(self, vm_id: str, limits: Limits) -> None:
        """Change what holds for the process. Raises VmmError."""
        await self._launcher.limit(vm_id, limits)

    async def release(self, vm_id: str) -> None:
        """Remove the bounds of a machine that does not run."""
        await self._launcher.release(vm_id)

    def bounds(self) -> frozenset[str]:
        """Ids of the machines that have bounds."""
        return self._launcher.bounds()

    def usage(self, vm_id: str) -> GroupUsage | None:
        """What a machine's bounds say."""
        return self._launcher.usage(vm_id)

    def remove_sockets(self, vm_dir: Path) -> None:
        """Remove the agent's and the control socket."""
        files = VMLayout(vm_dir)
        files.agent_socket.unlink(missing_ok=True)
        files.control_socket.unlink(missing_ok=True)

    def bound_logs(self, vm_dir: Path) -> None:
        """Empty a console or VMM log that has grown beyond 8 MiB; works while the machine writes, for it appends."""
        files = VMLayout(vm_dir)
        bound_log(files.console_log, CONSOLE_LIMIT)
        bound_log(files.vmm_log, CONSOLE_LIMIT)


def _unprivileged() -> int:
    """The uid that stands for a machine's VMM when nothing else is known: machines never run as root."""
    return _NOBODY if os.geteuid() == 0 else -1


def _open_files(config: MachineConfig, files: VMLayout, opened: contextlib.ExitStack) -> Descriptors:
    return Descriptors(
        kernel=_open(opened, config.kernel, os.O_RDONLY),
        initramfs=_open(opened, config.initramfs, os.O_RDONLY),
        disks=tuple(_open(opened, disk.path, os.O_RDONLY if disk.read_only else os.O_RDWR) for disk in config.disks),
        console=_open(opened, files.console_log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND),
        agent=opened.enter_context(sockets.listen(files.agent_socket, backlog=8)).fileno(),
        control=opened.enter_context(sockets.listen(files.control_socket, backlog=8)).fileno(),
        network=_open_network(opened, config.card),
    )


def _open_network(opened: contextlib.ExitStack, card: NetworkCard | None) -> int | None:
    """The other end of the card: a tap, or the network helper; None when there is none, or QEMU is that itself."""
    if card is None or not (card.tap or card.socket):
        return None
    if card.socket:
        return opened.enter_context(sockets.connect(card.socket)).fileno()
    try:
        fd = open_tap(card.tap)
    except (NotFound, CommandFailed) as error:
        raise VmmError(f"the machine's network card cannot be connected: {error.message}", hint=error.hint) from error
    opened.callback(os.close, fd)
    return fd


def _open(opened: contextlib.ExitStack, path: Path, flags: int) -> int:
    fd = os.open(path, flags | os.O_CLOEXEC, 0o600)
    opened.callback(os.close, fd)
    return fd


def _all(fds: Descriptors) -> list[int]:
    network = () if fds.network is None else (fds.network,)
    return [int(fd) for fd in (fds.kernel, fds.initramfs, *fds.disks, fds.console, fds.agent, fds.control, *network)]


def _words(fds: Descriptors, order: Sequence[int]) -> Descriptors:
    """The same with words in place of the numbers: whoever starts the process puts its own there."""

    def word(fd: int | str) -> str:
        return f"@fd{order.index(int(fd))}@"

    return Descriptors(
        kernel=word(fds.kernel),
        initramfs=word(fds.initramfs),
        disks=tuple(map(word, fds.disks)),
        console=word(fds.console),
        agent=word(fds.agent),
        control=word(fds.control),
        network=None if fds.network is None else word(fds.network),
    )


def _find(vm_id: str, vm_dir: Path) -> ProcessIdentity | None:
    for pid, found in _named():
        if found == vm_id and _is_ours(pid, vm_dir) and (identity := process.identify(pid)).start_time:
            return identity
    return None


def _list(vms: Path, known: Collection[str]) -> dict[str, ProcessIdentity]:
    machines: dict[str, ProcessIdentity] = {}
    for pid, vm_id in _named():
        ours = _is_ours(pid, vms / vm_id) if vm_id in known else _is_of(pid, vms / vm_id)
        if ours and (identity := process.identify(pid)).start_time:
            machines.setdefault(vm_id, identity)
    return machines


def _named() -> Iterator[tuple[int, str]]:
    """Pid and VM id of every QEMU, of whichever instance, that bears a machine's name."""
    for pid, words in process.command_lines():
        if b"qemu-system" in os.path.basename(words[0]):  # noqa: PTH119 - bytes
            yield from ((pid, match["vm_id"].decode()) for word in words if (match := _NAME.fullmatch(word)))


def _is_ours(pid: int, vm_dir: Path) -> bool:
    """Whether a process that bears the random name of a machine of ours is that machine, also when its directory was removed."""
    return process.owner_of(pid) in _possible_owners(vm_dir) or process.holds_below(pid, vm_dir)


def _is_of(pid: int, vm_dir: Path) -> bool:
    """Whether a process is the machine of this very directory, although no row vouches for it."""
    if process.holds_below(pid, vm_dir):
        return True
    with contextlib.suppress(FileNotFoundError):  # root without CAP_SYS_PTRACE cannot see what the process has open
        return os.getuid() == 0 and process.owner_of(pid) == VMLayout(vm_dir).overlay_disk.stat().st_uid
    return False


def _possible_owners(vm_dir: Path) -> set[int]:
    """We ourselves, and the uid that the machine's disk was given to: nobody else's process is taken for the machine."""
    owners = {os.getuid()}
    with contextlib.suppress(FileNotFoundError):
        owners.add(VMLayout(vm_dir).overlay_disk.stat().st_uid)
    return owners
