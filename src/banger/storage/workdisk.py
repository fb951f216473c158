"""The work disk: an ext4 per VM that the guest mounts on /root and fills the first time from the image's own /root."""

from __future__ import annotations

from ..host.paths import VMLayout
from ..model.machine import Disk
from ..model.records import VMSpec
from .ext4 import make_disk
from .grow import grow_disk, settle_disk


async def prepare_work_disk(files: VMLayout, spec: VMSpec, uid: int) -> Disk:
    """Make the VM's ``root.ext4`` where missing, sparse and empty, owned by ``uid`` (-1 = us). Raises NoSpace, MissingTool, CommandFailed."""
    await settle_disk(files.work_disk, uid=uid)
    await make_disk(files.work_disk, spec.work_disk_bytes, label="banger-work", uid=uid)
    return Disk(serial="work", path=files.work_disk, read_only=False)


async def grow_work_disk(files: VMLayout, spec: VMSpec, uid: int) -> None:
    """Make the work disk as large as ``spec`` says; success when it is, or is not made yet. Raises NoSpace, MissingTool, CommandFailed."""
    await grow_disk(files.work_disk, spec.work_disk_bytes, uid=uid)
