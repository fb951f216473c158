"""A database of another version: what is said of it, and the way back from a newer one."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from banger.model.errors import StoreError
from banger.store import Database, database
from banger.store import schema as subject
from banger.store.migrations import MIGRATIONS, Migration
from banger.store.schema import Compatibility, check_migrations, restore_older

NEWER = (*MIGRATIONS, Migration("future", ("CREATE TABLE future (x)",)))


def names(path: Path) -> set[str]:
    connection = sqlite3.connect(path)
    found = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    connection.close()
    return found


@pytest.fixture
def migrated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A database that a newer version has migrated and written to."""
    path = tmp_path / "banger.db"
    Database.open(path).close()
    with monkeypatch.context() as newer:
        newer.setattr(database, "MIGRATIONS", NEWER)
        opened = Database.open(path)
        opened.execute("INSERT INTO future VALUES (1)")
        opened.close()
    return path


def test_what_is_said(tmp_path: Path, migrated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_migrations(tmp_path / "none.db")[0] is Compatibility.COMPATIBLE
    assert not (tmp_path / "none.db").exists()
    Database.open(tmp_path / "own.db").close()
    assert check_migrations(tmp_path / "own.db")[0] is Compatibility.COMPATIBLE
    found, words = check_migrations(migrated)
    assert found is Compatibility.INCOMPATIBLE
    assert f"schema {len(NEWER)}" in words
    monkeypatch.setattr(subject, "MIGRATIONS", NEWER)
    assert check_migrations(migrated)[0] is Compatibility.COMPATIBLE
    assert check_migrations(tmp_path / "own.db")[0] is Compatibility.NEEDS_MIGRATIONS
    (tmp_path / "broken.db").write_bytes(b"no database" * 200)
    assert check_migrations(tmp_path / "broken.db")[0] is Compatibility.INCOMPATIBLE


def test_the_copy_is_put_back_and_the_newer_kept(migrated: Path) -> None:
    assert "is again what it was" in restore_older(migrated)
    assert check_migrations(migrated)[0] is Compatibility.COMPATIBLE
    assert "future" not in names(migrated)
    assert "future" in names(migrated.with_name(f"banger.db.newer-{len(NEWER)}"))
    Database.open(migrated).close()
    assert restore_older(migrated) == ""


def test_nothing_is_touched_without_a_copy(migrated: Path) -> None:
    migrated.with_name(f"banger.db.before-{len(NEWER)}").unlink()
    with pytest.raises(StoreError, match="is no copy"):
        restore_older(migrated)
    assert "future" in names(migrated)
