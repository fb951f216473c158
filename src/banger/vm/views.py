"""Looking at machines: what callers can be told of them. Nothing here changes one, or waits for its lock."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from ..guest.agent import Agent, Hello
from ..host import facts
from ..model.config import Config, size_defaults
from ..model.errors import GuestError, GuestTimeout, NotRunning, VmmError
from ..model.limits import SizeDefaults, defaults_for_host
from ..model.records import VMRecord
from ..vmm.protocol import PausesOnFullDisk
from .capabilities import Finding
from .context import Services
from .network import lost_network
from .observe import Health, Observer, Port, Usage, health, ports
from .start import disk_usage


@dataclass(frozen=True, slots=True, kw_only=True)
class VMStatus:
    """A record and what the host shows right now. Sizes are bytes."""

    record: VMRecord
    alive: bool
    pid: int | None
    directory: Path
    console_log: Path
    vmm_log: Path
    overlay_allocated_bytes: int
    work_allocated_bytes: int
    hello: Hello | None


class MachineViews:
    """The reading half of the service, which ``Machines`` completes with the verbs."""

    def __init__(self, services: Services, config: Config) -> None:
        self.config = config
        self._services = services
        self._observer = Observer(services)

    def list(self) -> tuple[VMRecord, ...]:
        """All machines, oldest first."""
        return self._services.vms.list()

    def count_running(self) -> int:
        """How many machines run, without those of ``--rm``, which end with their caller or the daemon."""
        return self._services.vms.count_running()

    def find(self, ref: str) -> VMRecord:
        """The machine meant by a name, id or unique id prefix. Raises NotFound or BadRequest."""
        return self._services.vms.find(ref)

    def status(self, ref: str) -> VMStatus:
        """The record and what the host shows."""
        record = self.find(ref)
        files = self._services.layout.vm(record.id)
        live = self._services.live.get(record.id)
        alive = self._services.alive(record)
        overlay, work = disk_usage(files)
        return VMStatus(
            record=record,
            alive=alive,
            pid=live.machine.process.pid if live is not None and alive else None,
            directory=files.root,
            console_log=files.console_log,
            vmm_log=files.vmm_log,
            overlay_allocated_bytes=overlay,
            work_allocated_bytes=work,
            hello=live.agent.hello if live is not None and live.agent is not None else None,
        )

    def agent(self, ref: str) -> Agent:
        """The agent of a running machine. Raises NotRunning, or GuestError while its channel is broken."""
        record = self.find(ref)
        if not self._services.alive(record):
            raise NotRunning(f"{record.name} is not running (state {record.state})", hint=f"banger vm start {record.name}")
        agent = self._services.live[record.id].agent
        if agent is None or agent.closed:
            raise GuestError(f"the agent in {record.name} does not answer", hint=f"banger vm logs {record.name}; banger vm restart {record.name}")
        return agent

    async def usage(self, ref: str) -> Usage:
        """What the machine uses right now; its guest is asked if it runs."""
        return await self._observer.usage(self.find(ref))

    async def health(self, ref: str) -> Health:
        """Whether it runs, answers, and has its network still; raises GuestError or GuestTimeout when it runs and does not answer."""
        record = self.find(ref)
        if not self._services.alive(record):
            return Health(name=record.name, alive=False)
        try:
            found = await health(self.agent(record.id), record.name)
        except GuestError:
            if await self._is_paused(record.id):
                message = f"{record.name} is paused: the disk of this host is full"
                raise GuestTimeout(message, hint=f"free some space: df {self._services.layout.vms}; it goes on by itself soon", vm=record.name) from None
            raise
        trouble = lost_network(self._services.network, record)
        return replace(found, healthy=False, trouble=trouble) if trouble else found

    async def _is_paused(self, vm_id: str) -> bool:
        """Whether the VMM says so: one that says nothing is not known to be."""
        live = self._services.live.get(vm_id)
        try:
            return live is not None and isinstance(live.machine, PausesOnFullDisk) and await live.machine.is_out_of_space()
        except VmmError:
            return False

    async def ports(self, ref: str, *, probe: bool = True) -> tuple[Port, ...]:
        """What waits for connections in a running machine. Raises NotRunning, GuestError, GuestTimeout."""
        record = self.find(ref)
        return await ports(self.agent(record.id), record.name, probe=probe)

    def log_file(self, ref: str, which: str) -> Path:
        """Path of the ``console`` or ``vmm`` log."""
        files = self._services.layout.vm(self.find(ref).id)
        return files.vmm_log if which == "vmm" else files.console_log

    async def check_host(self) -> tuple[Finding, ...]:
        """What the capabilities find on this host, for ``doctor``."""
        return await self._services.capabilities.check_host()

    def defaults(self) -> SizeDefaults:
        """Sizes that omitted options take on this host."""
        return size_defaults(self.config, defaults_for_host(facts.cpu_count(), facts.memory_bytes()))
