"""The table of machines."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from dataclasses import replace

from ..model.errors import AlreadyExists, BadRequest, NotFound
from ..model.names import SHORT_ID_LENGTH
from ..model.records import VMRecord, VMRuntime, VMSpec, VMState
from .codec import from_json, to_json
from .database import Database


class VMTable:
    """Rows of machines; every change of one is a read-modify-write in one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def list(self) -> tuple[VMRecord, ...]:
        """All machines, oldest first."""
        return tuple(map(_record, self._database.execute("SELECT * FROM vms ORDER BY created_at, id")))

    def count_running(self) -> int:
        """How many machines run, without those of ``--rm``."""
        count: int = self._database.execute("SELECT count(*) AS count FROM vms WHERE state = ? AND NOT remove", (VMState.RUNNING.value,)).fetchone()["count"]
        return count

    def get(self, vm_id: str) -> VMRecord | None:
        """The machine of that id."""
        row = self._database.execute("SELECT * FROM vms WHERE id = ?", (vm_id,)).fetchone()
        return None if row is None else _record(row)

    def get_by_name(self, name: str) -> VMRecord | None:
        """The machine of that exact name (a prefix match would refuse valid new names)."""
        row = self._database.execute("SELECT * FROM vms WHERE name = ?", (name,)).fetchone()
        return None if row is None else _record(row)

    def find(self, reference: str) -> VMRecord:
        """The machine meant by a name, an id, or a unique prefix of an id. Raises NotFound, or BadRequest when it is ambiguous.

        A whole id always wins. Then a name wins, unless it is as long as the ids that are shown and one of them begins so: then nobody can tell what is meant.
        """
        if (exact := self.get(reference)) is not None:
            return exact
        named = self.get_by_name(reference)
        if named is not None and len(reference) < SHORT_ID_LENGTH:
            return named
        rows = self._database.execute("SELECT * FROM vms WHERE substr(id, 1, ?) = ? ORDER BY name", (len(reference), reference)).fetchall() if reference else []
        candidates = {record.id: record for record in [*([named] if named else []), *map(_record, rows)]}
        if not candidates:
            raise NotFound(f"no machine {reference!r}", hint="banger vm list shows them all")
        if len(candidates) > 1:
            names = ", ".join(record.name for record in list(candidates.values())[:5])
            raise BadRequest(f"{reference!r} is ambiguous, it can mean {len(candidates)} machines ({names})", hint="use a name, or more of the id")
        return next(iter(candidates.values()))

    def insert(self, record: VMRecord) -> None:
        """Add a machine. Raises AlreadyExists when the name is taken."""
        columns = _columns(record)
        try:
            with self._database.atomic():
                self._database.execute(f"INSERT INTO vms ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})", tuple(columns.values()))
                self._database.events.append("state", record.id, state=record.state.value)
        except sqlite3.IntegrityError as error:
            if self.get_by_name(record.name) is None:
                raise
            raise AlreadyExists(f"a machine named {record.name!r} already exists", hint=f"choose another --name, or: banger vm delete {record.name}") from error

    def update(self, vm_id: str, change: Callable[[VMRecord], VMRecord]) -> VMRecord:
        """Store ``change(record)`` with a new ``updated_at`` and return it; call inside a transaction when more belongs to it. Raises NotFound."""
        record = self.get(vm_id)
        if record is None:
            raise NotFound(f"the machine {vm_id} is gone")
        changed = replace(change(record), updated_at=time.time())
        columns = _columns(changed)
        with self._database.atomic():
            self._database.execute(f"UPDATE vms SET {', '.join(f'{name} = ?' for name in columns)} WHERE id = ?", (*columns.values(), vm_id))
            self._tell(record, changed)
        return changed

    def _tell(self, before: VMRecord, after: VMRecord) -> None:
        runtime = after.runtime
        if after.state is not before.state:
            message = {VMState.ERROR: runtime.last_error, VMState.STOPPED: runtime.last_stop_reason}.get(after.state, "")
            self._database.events.append("state", after.id, state=after.state.value, message=message)
        if runtime.booted and not before.runtime.booted:
            self._database.events.append("booted", after.id, state=after.state.value)

    def touch(self, vm_id: str, when: float) -> None:
        """Note when the machine was last used; nothing happens when it is gone."""
        self._database.execute("UPDATE vms SET touched_at = ? WHERE id = ?", (when, vm_id))

    def delete(self, vm_id: str) -> None:
        """Remove a machine's row; success when it is gone."""
        with self._database.atomic():
            if self.get(vm_id) is not None:
                self._database.events.append("state", vm_id, state="deleted")
            self._database.execute("DELETE FROM vms WHERE id = ?", (vm_id,))

    def used_uids(self) -> frozenset[int]:
        """Uids that belong to the VMMs of existing machines."""
        return frozenset(row["vmm_uid"] for row in self._database.execute("SELECT vmm_uid FROM vms WHERE vmm_uid IS NOT NULL"))

    def used_addresses(self) -> frozenset[str]:
        """Addresses on a bridge that existing machines have, running or not."""
        return frozenset(row["address"] for row in self._database.execute("SELECT address FROM vms WHERE address IS NOT NULL"))

    def attached(self) -> dict[str, bool]:
        """Addresses of the machines that have a tap, or are about to; True for those that may go out."""
        rows = self._database.execute("SELECT address, spec FROM vms WHERE tap IS NOT NULL AND address IS NOT NULL")
        return {row["address"]: from_json(row["spec"], VMSpec).nat for row in rows}


def _columns(record: VMRecord) -> dict[str, object]:
    return {
        "id": record.id,
        "name": record.name,
        "image_id": record.image_id,
        "image_name": record.image_name,
        "state": record.state.value,
        "created_at": record.created_at,
        "updated_at": record.updated_at,
        "touched_at": record.touched_at,
        "remove": int(record.remove),
        "vmm_uid": record.runtime.vmm_uid if record.runtime.vmm_uid >= 0 else None,
        "address": record.runtime.address or None,
        "tap": record.runtime.tap or None,
        "spec": to_json(record.spec),
        "runtime": to_json(record.runtime),
    }


def _record(row: sqlite3.Row) -> VMRecord:
    return VMRecord(
        id=row["id"],
        name=row["name"],
        image_id=row["image_id"],
        image_name=row["image_name"],
        state=VMState(row["state"]),
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        touched_at=row["touched_at"],
        spec=from_json(row["spec"], VMSpec),
        runtime=from_json(row["runtime"], VMRuntime),
        remove=bool(row["remove"]),
    )
