"""The verbs of VMM processes, carried out on this host."""

from __future__ import annotations

import asyncio
import os
import re
import signal as signals
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from ...host import process
from ...host.cgroups.protocol import Groups
from ...host.kvm import KVM_DEVICE, kvm_groups
from ...host.run import spawn
from ...model.errors import BadRequest, VmmError
from ...model.limits import FIRST_VMM_UID, LAST_VMM_UID
from ...model.machine import Limits
from ...model.records import ProcessIdentity
from ..protocol import Launch
from .arguments import check_qemu_arguments, substitute
from .programs import own_program, trusted_program, without_privileges

SIGNALS: Final = frozenset({"TERM", "KILL", "INT", "HUP", "QUIT", "USR1", "USR2", "ABRT"})
MAX_DESCRIPTORS: Final = 64
_VM_ID: Final = re.compile("[0-9a-f]{32}", re.ASCII)


class HostVmms:
    """VmmOps in a process with the privileges that they need: the helper, a daemon that is root, or one whose user has a systemd of their own."""

    def __init__(self, groups: Groups, *, for_another: bool, find: Callable[[str], Path] | None = None, kvm_device: Path = KVM_DEVICE) -> None:
        """``for_another``: what is asked for comes from another process, so nothing of it is believed, and a VMM that ends is reaped here.

        ``find`` replaces what finds the program of a word.
        """
        self._groups = groups
        self._for_another = for_another
        self._find = find or (trusted_program if for_another else own_program)
        self._kvm_device = kvm_device
        self._reaping: set[asyncio.Task[int | None]] = set()
        self._starting: set[str] = set()
        self._uids: dict[str, int] = {}
        """By VM id: a process that has just been started does not show its uid yet."""

    async def launch_vmm(self, launch: Launch, descriptors: Sequence[int]) -> ProcessIdentity:
        """Start the VMM in its own group, behind what takes its privileges away."""
        self._check(launch, descriptors)
        words = [*self._unprivileged(launch), str(self._find(launch.program)), *substitute(launch.arguments, descriptors)]
        *inherited, log = descriptors

        def start(wrapper: tuple[str, ...], besides: tuple[int, ...]) -> ProcessIdentity:
            return spawn([*wrapper, *words], output=log, pass_fds=(*inherited, *besides))

        self._starting.add(launch.vm_id)
        self._uids[launch.vm_id] = launch.uid
        try:
            child = await self._groups.start(launch.vm_id, launch.limits, start)
        finally:
            self._starting.discard(launch.vm_id)
        if self._for_another:
            self._reap(child)
        return child

    async def signal_vmm(self, vm_id: str, process: ProcessIdentity, signal: str) -> bool:
        """The pidfd is opened first: what is then found out about the pid is about this very process, or the signal goes nowhere."""
        _check_id(vm_id)
        if signal not in SIGNALS:
            raise BadRequest(f"signal {signal[:16]!r} is not sent to a VMM", hint=f"one of {', '.join(sorted(SIGNALS))}")
        return send_to_member(process, signals.Signals[f"SIG{signal}"], lambda: self._groups.members(vm_id))

    async def list_vmms(self) -> Mapping[str, ProcessIdentity]:
        """The oldest process of each group; empty groups are left out."""
        return await asyncio.to_thread(self._list)

    async def limit_vmm(self, vm_id: str, limits: Limits) -> None:
        """The group takes what a group can bound; disks and network are the VMM's own."""
        _check_id(vm_id)
        _check_limits(limits)
        await self._groups.limit(vm_id, limits)

    async def release_vmm(self, vm_id: str) -> None:
        """Raises VmmError while a process is in it."""
        _check_id(vm_id)
        await self._groups.remove(vm_id)

    def _check(self, launch: Launch, descriptors: Sequence[int]) -> None:
        _check_id(launch.vm_id)
        _check_limits(launch.limits)
        if not 1 <= len(descriptors) <= MAX_DESCRIPTORS:
            raise BadRequest(f"{len(descriptors)} descriptors for a VMM are refused")
        named = check_qemu_arguments(launch.arguments, len(descriptors), user_network=not self._for_another)
        if named != launch.vm_id:
            raise BadRequest("the arguments of the VMM name another machine")
        if launch.vm_id in self._starting or self._groups.members(launch.vm_id):
            raise VmmError("the machine's VMM runs already")
        self._check_uid(launch.uid)

    def _check_uid(self, uid: int) -> None:
        """A daemon that starts machines for itself may also start them as itself."""
        if not self._for_another and uid == -1:
            return
        if not FIRST_VMM_UID <= uid <= LAST_VMM_UID:
            raise BadRequest(f"no VMM runs as uid {uid}")
        running = self._list()
        self._uids = {vm_id: its for vm_id, its in self._uids.items() if vm_id in running or vm_id in self._starting}
        if uid in self._uids.values() or any(process.owner_of(other.pid) == uid for other in running.values()):
            raise BadRequest(f"another machine's VMM runs as uid {uid}")

    def _unprivileged(self, launch: Launch) -> tuple[str, ...]:
        if launch.uid < 0:
            return ()
        groups = kvm_groups(self._kvm_device.stat()) if launch.kvm and self._kvm_device.exists() else ()
        if groups is None:
            raise VmmError(f"an unprivileged VMM may not open {self._kvm_device}", hint="sudo groupadd --force --system kvm; banger doctor says more")
        return without_privileges(launch.uid, groups)

    def _list(self) -> dict[str, ProcessIdentity]:
        found: dict[str, ProcessIdentity] = {}
        for vm_id in self._groups.machines():
            identities = [
                ProcessIdentity(pid=pid, start_time=start) for pid in self._groups.members(vm_id) if (start := process.start_time_of(pid)) is not None
            ]
            if identities:
                found[vm_id] = min(identities, key=lambda one: (one.start_time, one.pid))
        return found

    def _reap(self, child: ProcessIdentity) -> None:
        reaping = asyncio.create_task(process.wait_exit(child), name=f"reap {child.pid}")
        self._reaping.add(reaping)
        reaping.add_done_callback(self._reaping.discard)


def send_to_member(target: ProcessIdentity, number: signals.Signals, members: Callable[[], frozenset[int]]) -> bool:
    """Signal this very process if it is a member; False when it is gone. Raises BadRequest for a process that is none."""
    pidfd = process.open_pidfd(target)
    if pidfd is None:
        return False
    try:
        if target.pid not in members():
            if not process.is_alive(target):
                return False
            raise BadRequest(f"process {target.pid} is not the machine's VMM")
        signals.pidfd_send_signal(pidfd, number)
        return True
    except ProcessLookupError:
        return False
    finally:
        os.close(pidfd)


def _check_id(vm_id: str) -> None:
    if not _VM_ID.fullmatch(vm_id):
        raise BadRequest(f"{vm_id[:64]!r} is no machine's id")


def _check_limits(limits: Limits) -> None:
    if not 0 <= limits.cpu_quota <= 1024 or not 0 <= limits.io_weight <= 10000:  # also refuses NaN
        raise BadRequest("the limits of the VMM are refused")
    if not 0 <= limits.memory_max_bytes < 1 << 60 or not 0 <= limits.pids_max <= 1 << 20:
        raise BadRequest("the limits of the VMM are refused")
