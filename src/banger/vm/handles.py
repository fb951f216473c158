"""What the machine shows right now, in memory and in each VM's ``handles.json``."""

from __future__ import annotations

import logging

from ..host import facts
from ..host.files import open_regular, remove_tree, write_atomically
from ..host.paths import Layout
from ..model.errors import StoreError
from ..model.records import VMHandles
from ..store.codec import from_json, to_json

log = logging.getLogger(__name__)

_LARGEST = 64 * 1024


class HandleCache:
    """Handles of running machines. The file is written first and memory second: after a crash in between, reconcile repairs from the file; the
    other way round, kernel objects would be forgotten."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._cache: dict[str, VMHandles] = {}

    def get(self, vm_id: str) -> VMHandles | None:
        """Handles of a machine as last written in this boot of the host; None when there are none."""
        return self._cache.get(vm_id) or self._read(vm_id)

    def put(self, vm_id: str, handles: VMHandles) -> None:
        """Store handles, file first. The file need not survive the host, for what it names does not."""
        write_atomically(self._layout.vm(vm_id).handles, to_json(handles).encode(), durable=False)
        self._cache[vm_id] = handles

    def clear(self, vm_id: str) -> None:
        """Forget handles; success when there are none."""
        path = self._layout.vm(vm_id).handles
        try:
            path.unlink(missing_ok=True)
        except IsADirectoryError:
            remove_tree(path)
        self._cache.pop(vm_id, None)

    def _read(self, vm_id: str) -> VMHandles | None:
        try:
            with open_regular(self._layout.vm(vm_id).handles) as file:
                handles = from_json(file.read(_LARGEST).decode(), VMHandles)
        except FileNotFoundError:
            return None
        except (StoreError, OSError, UnicodeDecodeError) as error:
            log.warning("handles.json is unreadable, the machine itself will be asked", extra={"vm_id": vm_id, "error": str(error)})
            return None
        return handles if handles.boot_id == facts.boot_id() else None
