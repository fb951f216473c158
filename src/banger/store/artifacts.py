"""Tables of images and kernels."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path
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

    def move(self, record: Artifact, path: Path) -> None:
        """Note that the files lie in ``path`` when they do and the record says otherwise: an instance was moved or copied."""
        if record.path != str(path) and path.is_dir():
            self._database.execute(f"UPDATE {self.table} SET record = ? WHERE id = ?", (to_json(replace(record, path=str(path))), record.id))

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

    def users(self, image_id: str) -> tuple[str, ...]:
        """Names of the machines that use the image."""
        return tuple(row["name"] for row in self._database.execute("SELECT name FROM vms WHERE image_id = ? ORDER BY name", (image_id,)))

    def delete(self, name: str) -> None:
        """Remove a record. Raises NotFound, or BadRequest with their names while machines use it."""
        if (image := self.get(name)) and (users := self.users(image.id)):
            raise BadRequest(f"image {name!r} is in use by {', '.join(users)}", hint=f"delete them first: banger vm delete {' '.join(users)}")
        super().delete(name)

    def supersede(self, previous: ImageRecord, record: ImageRecord, aside: str) -> bool:
        """Give ``record`` the name of ``previous``, which gets the name ``aside`` while machines use it, else loses its row. Whether it was kept.

        Raises NotFound when ``previous`` has gone, AlreadyExists when its name has been taken.
        """
        with self._database.transaction():
            kept = bool(self.users(previous.id))
            if kept:
                row = to_json(replace(previous, name=aside, superseded=True))
                self._database.execute("UPDATE images SET name = ?, record = ? WHERE id = ?", (aside, row, previous.id))
                self._database.execute("UPDATE vms SET image_name = ? WHERE image_id = ?", (aside, previous.id))
            else:
                super().delete(previous.name)
            self.insert(record)
        return kept

    def update(self, record: ImageRecord) -> None:
        """Store another record of the same id and name."""
        self._database.execute("UPDATE images SET record = ? WHERE id = ?", (to_json(record), record.id))

    def touch(self, image_id: str, when: float) -> None:
        """Note that the image was used at ``when`` (seconds since 1970)."""
        if record := self.get_by_id(image_id):
            self._database.execute("UPDATE images SET record = ? WHERE id = ?", (to_json(replace(record, last_used_at=when)), image_id))


class KernelTable(_ArtifactTable[KernelRecord]):
    """Kernels on this host."""

    table = "kernels"
    noun = "kernel"
    kind = KernelRecord

    def replace(self, record: KernelRecord) -> KernelRecord | None:
        """Add a record in the place of the one that has its name, which is returned."""
        with self._database.atomic():
            previous = self.get(record.name)
            if previous is not None:
                self.delete(record.name)
            self.insert(record)
        return previous

    def users(self, name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Names of the images that boot with the kernel, and of the machines that run from those images."""
        of_images = "SELECT name FROM images WHERE json_extract(record, '$.kernel_name') = ? ORDER BY name"
        of_machines = (
            "SELECT vms.name FROM vms JOIN images ON images.id = vms.image_id WHERE json_extract(images.record, '$.kernel_name') = ? ORDER BY vms.name"
        )
        images, machines = (tuple(row["name"] for row in self._database.execute(query, (name,))) for query in (of_images, of_machines))
        return images, machines
