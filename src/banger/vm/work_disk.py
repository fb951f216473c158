"""The first capability: a disk of its own on /root, so that what a user makes is apart from the system and outlives it."""

from __future__ import annotations

from ..guest.agent import FileToWrite
from ..host.paths import Layout
from ..host.run import find_tool
from ..model.errors import MissingTool
from ..model.machine import Disk
from ..model.records import VMRecord
from ..storage.ext4 import staging_name
from ..storage.workdisk import grow_work_disk, prepare_work_disk
from .capabilities import Finding, GuestPart
from .context import disk_owner

_TOOL = "mke2fs"


class WorkDisk:
    """Makes the disk where it is missing, attaches it, has the guest mount it, grows it. The disk goes with the machine."""

    name = "work-disk"

    def __init__(self, layout: Layout, files: tuple[FileToWrite, ...] = ()) -> None:
        """``files`` are written to every guest at each start, such as keys."""
        self._layout = layout
        self._files = files

    async def check_start(self, record: VMRecord) -> None:
        """Raises MissingTool when the disk has to be made and cannot be."""
        if not self._layout.vm(record.id).work_disk.exists():
            find_tool(_TOOL)

    async def prepare_host(self, record: VMRecord) -> None:
        await prepare_work_disk(self._layout.vm(record.id), record.spec, disk_owner(record))

    def contribute_machine(self, record: VMRecord) -> tuple[Disk, ...]:
        return (Disk(serial="work", path=self._layout.vm(record.id).work_disk, read_only=False),)

    async def contribute_guest(self, record: VMRecord) -> GuestPart:
        return GuestPart(files=self._files, work_disk=True)

    async def clean_up(self, vm_id: str) -> None:
        """Remove what a daemon that was killed had half made; the disk itself goes with the machine."""
        staging_name(self._layout.vm(vm_id).work_disk).unlink(missing_ok=True)

    async def apply_change(self, before: VMRecord, after: VMRecord) -> None:
        if before.spec.work_disk_bytes < after.spec.work_disk_bytes:
            await grow_work_disk(self._layout.vm(after.id), after.spec, disk_owner(after))

    async def check_host(self) -> tuple[Finding, ...]:
        try:
            return (Finding(name="disks", status="pass", detail=str(find_tool(_TOOL))),)
        except MissingTool as error:
            return (Finding(name="disks", status="fail", detail=error.message, remedy=error.hint),)
