"""How the process of a VMM is started, signalled and bounded: by ourselves, or in bounds of its own by what has the privileges for that."""

from __future__ import annotations

import logging
import os
import signal as signals
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from ..helper.protocol import Launch, VmmOps
from ..helper.vmms.arguments import substitute
from ..helper.vmms.host import HostVmms
from ..helper.vmms.programs import own_program
from ..host import process
from ..host.cgroups.choice import choose_groups, instance_of
from ..host.cgroups.protocol import SYSTEM_INSTANCE, Groups
from ..host.cgroups.scopes import SystemdScopes
from ..host.kvm import KVM_DEVICE, kvm_groups
from ..host.run import spawn
from ..host.threads import run_to_end
from ..model.errors import BadRequest, CommandFailed, VmmError
from ..model.machine import GroupUsage, Limits
from ..model.records import ProcessIdentity

log = logging.getLogger(__name__)


class Launcher(Protocol):
    """What a driver starts its processes with."""

    own_uids: bool
    """Every VMM can run as a uid of its own."""

    async def launch(self, launch: Launch, descriptors: Sequence[int]) -> ProcessIdentity:
        """As ``VmmOps.launch_vmm``. Raises VmmError, MissingTool, HelperUnreachable or OSError."""

    async def signal(self, vm_id: str, process: ProcessIdentity, name: str) -> bool:
        """As ``VmmOps.signal_vmm``."""

    async def list(self) -> Mapping[str, ProcessIdentity]:
        """VMMs that are known by their bounds, by VM id."""

    async def limit(self, vm_id: str, limits: Limits) -> None:
        """Change the limits of a machine that runs. Raises VmmError."""

    async def release(self, vm_id: str) -> None:
        """Remove the bounds of a machine that does not run; success when there are none."""

    def enforced(self) -> frozenset[str]:
        """Which limits hold: of ``cpu``, ``memory``, ``pids``, ``io``."""

    def bounds(self) -> frozenset[str]:
        """Ids of the machines that have bounds."""

    def usage(self, vm_id: str) -> GroupUsage | None:
        """What the machine's bounds say; None without any."""


class DirectLauncher:
    """Starts them as plain children in sessions of their own; as other uids when we are root."""

    own_uids = property(lambda self: os.geteuid() == 0)

    def __init__(self, *, find: Callable[[str], Path] = own_program, kvm_device: Path = KVM_DEVICE) -> None:
        self._find = find
        self._kvm_device = kvm_device

    async def launch(self, launch: Launch, descriptors: Sequence[int]) -> ProcessIdentity:
        """A cancellation leaves it running: it is found by its name."""
        *inherited, log = descriptors
        words: list[str | Path] = [self._find(launch.program), *substitute(launch.arguments, descriptors)]
        groups = kvm_groups(self._kvm_device.stat()) if launch.kvm and launch.uid >= 0 else ()
        return await run_to_end(spawn, words, output=log, pass_fds=inherited, uid=launch.uid, groups=groups or ())

    async def signal(self, vm_id: str, process_: ProcessIdentity, name: str) -> bool:
        """By pidfd."""
        return process.send_signal(process_, signals.Signals[f"SIG{name}"])

    async def list(self) -> Mapping[str, ProcessIdentity]:
        return {}

    async def limit(self, vm_id: str, limits: Limits) -> None:
        raise VmmError("this host does not let the CPU of a machine be limited")

    async def release(self, vm_id: str) -> None:
        """There is nothing."""

    def enforced(self) -> frozenset[str]:
        return frozenset()

    def bounds(self) -> frozenset[str]:
        return frozenset()

    def usage(self, vm_id: str) -> GroupUsage | None:
        return None


class ConfinedLauncher:
    """Starts them through verbs that put each into a group of its own; the groups are read here, which takes no privileges."""

    def __init__(self, vmms: VmmOps, groups: Groups, *, own_uids: bool, otherwise: Launcher | None = None) -> None:
        """``otherwise`` starts a machine that needs no limit when it cannot have bounds: a user's systemd may be out of order, and is not needed to run it."""
        self._vmms = vmms
        self._groups = groups
        self._otherwise = otherwise
        self.own_uids = own_uids

    async def launch(self, launch: Launch, descriptors: Sequence[int]) -> ProcessIdentity:
        try:
            return await self._vmms.launch_vmm(launch, descriptors)
        except (VmmError, CommandFailed) as error:
            if self._otherwise is None or launch.limits.cpu_quota:
                raise
            log.warning("the VMM gets no bounds of its own", extra={"vm_id": launch.vm_id, "error": str(error)})
            return await self._otherwise.launch(launch, descriptors)

    async def signal(self, vm_id: str, process_: ProcessIdentity, name: str) -> bool:
        """A machine that was started without bounds, by an earlier daemon, is signalled by ourselves: that goes as far as the kernel lets us."""
        try:
            return await self._vmms.signal_vmm(vm_id, process_, name)
        except BadRequest:
            return process.send_signal(process_, signals.Signals[f"SIG{name}"])

    async def list(self) -> Mapping[str, ProcessIdentity]:
        return await self._vmms.list_vmms()

    async def limit(self, vm_id: str, limits: Limits) -> None:
        await self._vmms.limit_vmm(vm_id, limits)

    async def release(self, vm_id: str) -> None:
        """Nothing is asked for a machine that has no group."""
        if vm_id in self._groups.machines():
            await self._vmms.release_vmm(vm_id)

    def enforced(self) -> frozenset[str]:
        return self._groups.enforced()

    def bounds(self) -> frozenset[str]:
        return self._groups.machines()

    def usage(self, vm_id: str) -> GroupUsage | None:
        return self._groups.usage(vm_id)


def local_launcher(state: Path) -> Launcher:
    """What a daemon without the privileged helper starts its VMMs with: groups of its own where it can have some.

    ``state``: where the instance keeps its records, which tells it from others on this host.
    """
    groups = choose_groups(instance_of(state))
    if groups is None:
        log.info("VMMs run without cgroups of their own")
        return DirectLauncher()
    root = os.geteuid() == 0
    return ConfinedLauncher(HostVmms(groups, for_another=False), groups, own_uids=root, otherwise=None if root else DirectLauncher())


def helper_launcher(vmms: VmmOps) -> Launcher:
    """What the daemon of an installed system starts its VMMs with: the helper's verbs; the scopes are read without it."""
    return ConfinedLauncher(vmms, SystemdScopes(SYSTEM_INSTANCE), own_uids=True)
