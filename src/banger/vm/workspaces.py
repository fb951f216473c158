"""The workspace that a machine has, as its row tells it."""

from __future__ import annotations

from dataclasses import replace

from ..model.records import VMRecord, WorkspaceRecord
from ..store import Database
from ..store.vms import VMTable


def record_workspace(database: Database, vm_id: str, workspace: WorkspaceRecord | None) -> VMRecord:
    """Store what was prepared in a machine last. Raises NotFound."""
    return VMTable(database).update(vm_id, lambda record: replace(record, runtime=replace(record.runtime, workspace=workspace)))
