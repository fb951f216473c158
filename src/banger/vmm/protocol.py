"""What every VMM driver can do. Optional abilities will be protocols of their own, discovered by isinstance."""

from __future__ import annotations

import socket
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from ..model.machine import GroupUsage, Limits, MachineConfig
from ..model.records import ProcessIdentity, VMSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class VmmProbe:
    """What a driver found out about itself on this host."""

    usable: bool
    binary: str = ""
    version: str = ""
    accelerator: str = ""
    """``kvm`` or ``tcg``."""
    note: str = ""
    """One line for the user: why it is not usable, or why it is slow; "" when all is well."""
    hint: str = ""


class Machine(Protocol):
    """A running VMM process of ours."""

    process: ProcessIdentity

    async def connect_agent(self) -> socket.socket:
        """A fresh non-blocking stream socket to the guest's agent channel; the previous connection must be closed. Raises VmmError when nobody listens."""

    async def signal(self, name: str) -> bool:
        """Send a signal such as ``TERM`` to the VMM process; False when it is gone. Raises BangerError, or PermissionError."""

    async def end(self) -> None:
        """End the VMM process now; the guest gets no notice. Success when it is already gone."""


class Vmm(Protocol):
    """A driver. Stateless apart from caches: everything about a VM is found again from its id and directory."""

    name: str

    async def probe(self, kernel: Path, initramfs: Path) -> VmmProbe:
        """Binary, version and the accelerator that really works here (cached per host boot, binary and kernel)."""

    async def launch(self, config: MachineConfig) -> Machine:
        """Start the machine and return as soon as the process runs. Raises VmmError or MissingTool; leaves no process behind then."""

    async def adopt(self, vm_id: str, vm_dir: Path) -> Machine | None:
        """The running machine of this VM, found by looking at the host; None when there is none."""

    def remove_sockets(self, vm_dir: Path) -> None:
        """Remove what ``launch`` left in the VM's directory apart from logs and disks. Success when there is nothing."""


@runtime_checkable
class ListsMachines(Protocol):
    """Optional: a driver that finds all machines of an instance with one look at the host."""

    async def list_machines(self, vms: Path, known: Collection[str]) -> Mapping[str, Machine]:
        """The running machines whose directories are (or were) below ``vms``, by VM id.

        For an id in ``known``, which has a row, this is what ``adopt`` finds. Any other counts only if it is proven to be of this instance.
        """


@runtime_checkable
class SwitchesLink(Protocol):
    """Optional, of a ``Machine``: its network card can be cut off and connected again while it runs."""

    async def switch_link(self, *, up: bool) -> None:
        """Let the card's frames pass in both directions, or none in either; the guest sees the link come and go. "Already so" is success.

        What carries the frames on the host stays. Raises VmmError when the VMM refuses or does not answer.
        """


@runtime_checkable
class PausesOnFullDisk(Protocol):
    """Optional, of a ``Machine``: when the host's disk has no room for what the guest writes, the guest is paused in place of losing the write."""

    async def is_out_of_space(self) -> bool:
        """Whether it is paused for that. Raises VmmError when the VMM does not answer."""

    async def go_on(self) -> None:
        """Try the write again and let the guest run; paused again when there is still no room. Raises VmmError."""


@runtime_checkable
class ShowsProcessors(Protocol):
    """Optional, of a ``Machine``: it tells what its CPUs are at, for whoever asks why a guest hangs."""

    async def processors(self) -> str:
        """One line such as ``0 runs at ffffffff81c00ba0, 1 halted at ffffffff81c0a15b``: addresses of the guest. Raises VmmError when it does not answer."""


@runtime_checkable
class BoundsLogs(Protocol):
    """Optional: a driver whose machines write logs that the guest can make grow."""

    def bound_logs(self, vm_dir: Path) -> None:
        """Keep this VM's logs within bounds; to be called now and then while it runs. Success when there are none."""


@runtime_checkable
class Inspects(Protocol):
    """Optional: a driver that can say something about itself before there is a kernel to probe with."""

    async def inspect(self) -> VmmProbe:
        """Binary and version; ``accelerator`` is "" unless it is already clear without running a guest."""


@runtime_checkable
class BoundsMachines(Protocol):
    """Optional: a driver whose processes can run as uids and in bounds of their own."""

    @property
    def own_uids(self) -> bool:
        """Whether every machine gets a uid of its own (``MachineConfig.uid``)."""

    def enforced(self) -> frozenset[str]:
        """Which limits hold on this host: of ``cpu``, ``memory``, ``pids``, ``io``, ``disk``, ``network``."""

    def bounds_of(self, spec: VMSpec, accelerator: str) -> Limits:
        """The limits of a machine: those asked for, and those that no healthy VMM of this size meets."""

    async def limit(self, vm_id: str, limits: Limits) -> None:
        """Change what holds for the process of a machine that runs. Raises VmmError."""

    async def release(self, vm_id: str) -> None:
        """Remove the bounds of a machine whose process has ended; success when there are none. Raises VmmError."""

    def bounds(self) -> frozenset[str]:
        """Ids of the machines that have bounds, whether they run or not."""

    def usage(self, vm_id: str) -> GroupUsage | None:
        """What the machine's bounds say; None without any."""
