"""Capabilities: what a machine has beyond a VMM and a root disk (a work disk, ssh, published ports; later DNS, NAT).

A capability has a name and any of twelve hooks, each a protocol of its own that it is asked for by isinstance. Hooks run in the order of the list, clean-up in
reverse. None of them sees the whole daemon: each holds only what it was made with.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from ..guest.agent import Agent, FileToWrite
from ..model.forwards import Forward
from ..model.machine import Disk
from ..model.records import VMRecord

log = logging.getLogger(__name__)


class Capability(Protocol):
    """The least that every capability has."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestPart:
    """What a capability adds to the guest's configuration."""

    files: tuple[FileToWrite, ...] = ()
    work_disk: bool = False
    """There is a disk ``work`` to mount on /root."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of ``doctor``."""

    name: str
    status: Literal["pass", "warn", "fail"]
    detail: str
    remedy: str = ""


@runtime_checkable
class ChecksStart(Protocol):
    """Hook: start preflight."""

    async def check_start(self, record: VMRecord) -> None:
        """Raises what keeps this machine from starting, such as MissingTool. Changes nothing."""


@runtime_checkable
class PreparesHost(Protocol):
    """Hook: prepare host."""

    async def prepare_host(self, record: VMRecord) -> None:
        """Make what the machine needs on the host before it is launched; "already so" is success."""


@runtime_checkable
class ContributesMachine(Protocol):
    """Hook: machine contribution."""

    def contribute_machine(self, record: VMRecord) -> tuple[Disk, ...]:
        """Disks that the VMM shall attach, behind the root's."""


@runtime_checkable
class ContributesGuest(Protocol):
    """Hook: guest contribution."""

    async def contribute_guest(self, record: VMRecord) -> GuestPart:
        """What the guest shall be told. The machine waits for it, so what takes time begins in ``prepare_host``."""


@runtime_checkable
class ActsAfterStart(Protocol):
    """Hook: post start."""

    async def post_start(self, record: VMRecord, agent: Agent) -> None:
        """Act on a machine that has become ready; a failure fails the start. The row does not say yet that it runs."""


@runtime_checkable
class CleansUp(Protocol):
    """Hook: cleanup."""

    async def clean_up(self, vm_id: str) -> None:
        """Undo ``prepare_host`` and ``post_start`` when a run ends, however it ended, from the id alone; "nothing there" is success. Disks stay."""


@runtime_checkable
class AppliesChange(Protocol):
    """Hook: configuration change."""

    async def apply_change(self, before: VMRecord, after: VMRecord) -> None:
        """Make a change of the specification true; raises when it cannot be. Idempotent: it is repeated after a crash."""


@runtime_checkable
class ChecksPublish(Protocol):
    """Hook: ports of this host."""

    async def check_publish(self, forwards: Sequence[Forward]) -> None:
        """Raises AlreadyExists or BadRequest when one of these cannot be listened at. Changes nothing."""


@runtime_checkable
class Forgets(Protocol):
    """Hook: deletion."""

    async def forget(self, vm_id: str) -> None:
        """The machine and its directory are gone; "never heard of it" is success."""


@runtime_checkable
class Resumes(Protocol):
    """Hook: daemon start."""

    async def resume(self, records: Sequence[VMRecord]) -> None:
        """The daemon has recovered: these are all machines, running or not. Raises nothing that would keep it from serving."""


@runtime_checkable
class Closes(Protocol):
    """Hook: daemon end."""

    async def close(self) -> None:
        """Let go of what belongs to this process; the machines run on."""


@runtime_checkable
class ChecksHost(Protocol):
    """Hook: doctor checks."""

    async def check_host(self) -> Sequence[Finding]:
        """What this host can do for the capability. Changes nothing."""


class Capabilities:
    """The list, and its dispatch."""

    def __init__(self, *members: Capability) -> None:
        self._members = members

    async def check_start(self, record: VMRecord) -> None:
        """Every start preflight."""
        for member in self._members:
            if isinstance(member, ChecksStart):
                await member.check_start(record)

    async def prepare_host(self, record: VMRecord) -> None:
        """Every prepare-host hook. When one fails or is cancelled, it and those before it are cleaned up, in a task that the cancellation does not reach."""
        reached: list[Capability] = []
        try:
            for member in self._members:
                reached.append(member)
                if isinstance(member, PreparesHost):
                    await member.prepare_host(record)
        except BaseException as cause:
            errors = await asyncio.shield(asyncio.create_task(_clean_up(reached, record.id)))
            if errors and isinstance(cause, Exception):
                raise ExceptionGroup(str(cause), [cause, *errors]) from cause
            raise

    def contribute_machine(self, record: VMRecord) -> tuple[Disk, ...]:
        """All contributed disks."""
        return tuple(disk for member in self._members if isinstance(member, ContributesMachine) for disk in member.contribute_machine(record))

    async def contribute_guest(self, record: VMRecord) -> GuestPart:
        """All guest contributions as one."""
        parts = [await member.contribute_guest(record) for member in self._members if isinstance(member, ContributesGuest)]
        return GuestPart(files=tuple(file for part in parts for file in part.files), work_disk=any(part.work_disk for part in parts))

    async def post_start(self, record: VMRecord, agent: Agent) -> None:
        """Every post-start hook."""
        for member in self._members:
            if isinstance(member, ActsAfterStart):
                await member.post_start(record, agent)

    async def clean_up(self, vm_id: str) -> None:
        """Every clean-up in reverse order, whatever happens to the others. Raises an ExceptionGroup of all failures."""
        if errors := await _clean_up(self._members, vm_id):
            raise ExceptionGroup(f"cleaning up capabilities of machine {vm_id} failed", errors)

    async def apply_change(self, before: VMRecord, after: VMRecord) -> None:
        """Every configuration-change hook."""
        for member in self._members:
            if isinstance(member, AppliesChange):
                await member.apply_change(before, after)

    async def check_publish(self, forwards: Sequence[Forward]) -> None:
        """Every check of ports of this host."""
        for member in self._members:
            if isinstance(member, ChecksPublish):
                await member.check_publish(forwards)

    async def forget(self, vm_id: str) -> None:
        """Every deletion hook."""
        for member in self._members:
            if isinstance(member, Forgets):
                await member.forget(vm_id)

    async def resume(self, records: Sequence[VMRecord]) -> None:
        """Every daemon-start hook; one that fails does not keep the others from it."""
        for member in self._members:
            if isinstance(member, Resumes):
                try:
                    await member.resume(records)
                except Exception:
                    log.exception("a capability could not resume", extra={"capability": member.__class__.__name__})

    async def close(self) -> None:
        """Every daemon-end hook, in reverse order."""
        for member in reversed(self._members):
            if isinstance(member, Closes):
                await member.close()

    async def check_host(self) -> tuple[Finding, ...]:
        """All doctor checks."""
        return tuple([finding for member in self._members if isinstance(member, ChecksHost) for finding in await member.check_host()])


async def _clean_up(members: Sequence[Capability], vm_id: str) -> list[Exception]:
    errors: list[Exception] = []
    for member in reversed(members):
        if not isinstance(member, CleansUp):
            continue
        try:
            await member.clean_up(vm_id)
        except Exception as error:  # noqa: BLE001 - joined and raised by the caller
            log.warning("capability was not cleaned up", extra={"capability": getattr(member, "name", ""), "vm_id": vm_id, "error": str(error)})
            errors.append(error)
    return errors
