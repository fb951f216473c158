"""What every root disk driver can do."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from ..host.paths import VMLayout
from ..model.machine import Disk
from ..model.records import VMSpec


class RootDisk(Protocol):
    """A driver for the disks that a machine boots from. All methods treat "already so" as success."""

    name: str
    root_mode: int
    """How the guest assembles the root: 1 = overlay, 2 = plain disk (docs/agent-protocol.md, configure)."""

    async def prepare(self, files: VMLayout, base: Path, spec: VMSpec, uid: int) -> tuple[Disk, ...]:
        """Make the VM's root disks where missing, owned by ``uid`` (-1 = us). Raises NoSpace; half-made files do not stay."""

    async def grow(self, files: VMLayout, spec: VMSpec, uid: int) -> None:
        """Make the root disks of a machine that does not run as large as ``spec`` says; they never shrink. Raises NoSpace; the old disks stay then."""

    async def release(self, files: VMLayout) -> None:
        """Remove the VM's root disks and whatever kernel objects they needed."""
