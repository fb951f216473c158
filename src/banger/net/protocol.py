"""What every network mode can do."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from ..host.paths import VMLayout
from ..model.machine import NetworkCard
from ..model.network import Traffic
from ..model.records import ProcessIdentity


@dataclass(frozen=True, slots=True)
class Attachment:
    """A machine's network as attached."""

    mode: str
    """``none``, ``passt``, ``builtin`` or ``bridge``."""
    card: NetworkCard | None
    helper: ProcessIdentity | None
    """Process that carries the traffic, when there is one; ends by itself when the VMM goes."""
    warning: str = ""
    """One line for the user, "" when all is well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkPlace:
    """Where a machine is on a bridge, as its row says; both "" without a bridge. Either is enough to undo everything."""

    address: str = ""
    tap: str = ""


class Network(Protocol):
    """A network mode. Stateless: everything is found again from the VM's id, directory and place."""

    async def attach(self, vm_id: str, files: VMLayout, place: NetworkPlace, *, nat: bool, uid: int) -> Attachment:
        """Connect the machine that is about to be launched. Raises MissingTool, CommandFailed or HelperUnreachable; leaves nothing behind then."""

    async def detach(self, vm_id: str, files: VMLayout, place: NetworkPlace) -> None:
        """Remove whatever ``attach`` made. Success when there is nothing."""


@runtime_checkable
class ListsHelpers(Protocol):
    """Optional: a network mode whose machines have processes beside the VMM."""

    async def list_helpers(self, vms: Path) -> Mapping[str, tuple[ProcessIdentity, ...]]:
        """Processes that are proven to serve machines whose directories are (or were) below ``vms``, by VM id; found with one look at the host."""


@runtime_checkable
class AssignsPlaces(Protocol):
    """Optional: a network mode in which every machine has an address of its own, for its whole life."""

    def free_address(self, used: Collection[str]) -> str:
        """An address that is none of these; call inside the transaction that stores it. Raises NoSpace when all are used."""

    def place_at(self, address: str) -> NetworkPlace:
        """What belongs to that address. Raises BadRequest when it is none of this network's."""


@runtime_checkable
class SwitchesNat(Protocol):
    """Optional: a network mode that lets machines out, or not, while they run, and watches over what it has made on the host."""

    async def set_nat(self, place: NetworkPlace, *, nat: bool) -> None:
        """Let this machine out, or not; "already so" is success. Connections of one that loses it are cut."""

    async def traffic(self) -> Mapping[str, Traffic]:
        """What has passed between machines and the outside since they were let out, by address."""

    async def check(self) -> tuple[str, ...]:
        """What keeps it from working as it should although nothing of ours is missing, one line each. Changes nothing."""

    async def resume(self) -> None:
        """Bring the host into agreement with the rows of all machines, and keep it so while there are any on it."""

    async def close(self) -> None:
        """Let go of what belongs to this process; the machines run on."""


@runtime_checkable
class ListsTaps(Protocol):
    """Optional: a network mode with taps that can be left over."""

    async def stray_taps(self) -> tuple[str, ...]:
        """Names of our taps that belong to no machine's row and are not kept ready for one."""

    async def remove_tap(self, name: str) -> None:
        """Remove such a tap; success when it is gone. Raises BadRequest when a machine has it by now."""
