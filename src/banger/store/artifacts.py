"""Tables of images and kernels."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from typing import Generic, TypeVar

from ..model.errors import AlreadyExists, BadRequest, NotFound
from ..model.records import ImageRecord, KernelRecord
from .codec import from_json, to_json
from .database import Database

Artifact = TypeVar("Artifact", ImageRecord, KernelRecord)


class _ArtifactTable(Generic[Artifact]):
    """Rows found by their unique name."""

    table: str
    noun: str
    kind: type[Artifact]

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, name: str) -> Artifact | None:
        """The record of that exact name."""
        row = self._database.execute(f"SELECT record FROM {self.table} WHERE name = ?", (name,)).fetchone()
        return None if row is None else from_json(row["record"], self.kind)

    def list(self) -> tuple[Artifact, ...]:
        """All records by name."""
        rows = self._database.execute(f"SELECT record FROM {self.table} ORDER BY name")
        return tuple(from_json(row["record"], self.kind) for row in rows)

    def insert(self, record: Artifact) -> None:
        """Add a record. Raises AlreadyExists when the name is taken."""
        try:
            self._database.execute(f"INSERT INTO {self.table} (id, name, record) VALUES (?, ?, ?)", (record.id, record.name, to_json(record)))
        except sqlite3.IntegrityError as error:
            raise AlreadyExists(f"{self.noun} {record.name!r} already exists") from error

    def delete(self, name: str) -> None:
        """Remove a record. Raises NotFound, or BadRequest while something uses it."""
        try:
            gone = self._database.execute(f"DELETE FROM {self.table} WHERE name = ?", (name,)).rowcount
        except sqlite3.IntegrityError as error:
            raise BadRequest(f"{self.noun} {name!r} is in use by a machine", hint="delete the machine first: banger vm list") from error
        if gone == 0:
            raise NotFound(f"no {self.noun} {name!r}", hint=f"banger {self.noun} list")


class ImageTable(_ArtifactTable[ImageRecord]):
    """Images on this host."""

    table = "images"
    noun = "image"
    kind = ImageRecord

    def get_by_id(self, image_id: str) -> ImageRecord | None:
        """The record of that id."""
        row = self._database.execute("SELECT record FROM images WHERE id = ?", (image_id,)).fetchone()
        return None if row is None else from_json(row["record"], ImageRecord)

    def touch(self, image_id: str, when: float) -> None:
        """Note that the image was used at ``when`` (seconds since 1970)."""
        if record := self.get_by_id(image_id):
            self._database.execute("UPDATE images SET record = ? WHERE id = ?", (to_json(replace(record, last_used_at=when)), image_id))


class KernelTable(_ArtifactTable[KernelRecord]):
    """Kernels on this host."""

    table = "kernels"
    noun = "kernel"
    kind = KernelRecord
