"""The default root disk: the image shared read-only, and a sparse ext4 per VM that the guest lays over it."""

from __future__ import annotations

from pathlib import Path

from ..host.paths import VMLayout
from ..model.machine import Disk
from ..model.records import VMSpec
from .ext4 import make_disk, remove_disk
from .grow import grow_disk, settle_disk, undo_file


class OverlayDisk:
    """A root disk driver (``storage.protocol.RootDisk``). Creating takes milliseconds whatever the image's size, and needs no privileges."""

    name = "overlay"
    root_mode = 1

    async def prepare(self, files: VMLayout, base: Path, spec: VMSpec, uid: int) -> tuple[Disk, ...]:
        """Make the VM's ``system.overlay`` where missing, owned by ``uid`` (-1 = us). Raises NoSpace, MissingTool, CommandFailed."""
        await settle_disk(files.overlay_disk, uid=uid)
        await make_disk(files.overlay_disk, spec.system_overlay_bytes, label="banger-overlay", uid=uid)
        return Disk(serial="base", path=base, read_only=True), Disk(serial="overlay", path=files.overlay_disk, read_only=False)

    async def grow(self, files: VMLayout, spec: VMSpec, uid: int) -> None:
        """Make the ``system.overlay`` as large as ``spec`` says; success when it is, or is not made yet. Raises NoSpace, MissingTool, CommandFailed."""
        await grow_disk(files.overlay_disk, spec.system_overlay_bytes, uid=uid)

    async def release(self, files: VMLayout) -> None:
        """Remove the VM's ``system.overlay``; the shared base stays."""
        remove_disk(files.overlay_disk)
        undo_file(files.overlay_disk).unlink(missing_ok=True)
