"""What every network mode can do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from ..host.paths import VMLayout
from ..model.machine import NetworkCard
from ..model.records import ProcessIdentity


@dataclass(frozen=True, slots=True)
class Attachment:
    """A machine's network as attached."""

    mode: str
    """``none``, ``passt`` or ``builtin``."""
    card: NetworkCard | None
    helper: ProcessIdentity | None
    """Process that carries the traffic, when there is one; ends by itself when the VMM goes."""
    warning: str = ""
    """One line for the user, "" when all is well."""


class Network(Protocol):
    """A network mode. Stateless: everything is found again from the VM's id and directory."""

    async def attach(self, vm_id: str, files: VMLayout, *, nat: bool, uid: int) -> Attachment:
        """Connect the machine that is about to be launched. Raises MissingTool or CommandFailed; leaves nothing behind then."""

    async def detach(self, vm_id: str, files: VMLayout) -> None:
        """Remove whatever ``attach`` made. Success when there is nothing."""


@runtime_checkable
class ListsHelpers(Protocol):
    """Optional: a network mode whose machines have processes beside the VMM."""

    async def list_helpers(self, vms: Path) -> Mapping[str, tuple[ProcessIdentity, ...]]:
        """Processes that are proven to serve machines whose directories are (or were) below ``vms``, by VM id; found with one look at the host."""
