"""A look at a database that leaves it alone, also while a daemon has it open."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from banger.model.errors import StoreError
from banger.store import Database
from banger.store.inspection import look
from banger.store.migrations import MIGRATIONS


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if path.is_file())


def test_no_database(tmp_path: Path) -> None:
    assert look(tmp_path / "banger.db") is None
    assert names(tmp_path) == []


@pytest.mark.parametrize("open_elsewhere", [True, False])
def test_a_look_changes_nothing(tmp_path: Path, open_elsewhere: bool) -> None:
    path = tmp_path / "banger.db"
    database = Database.open(path)
    database.events.append("failure", "x", message="old")
    database.execute("UPDATE events SET at = ?", (time.time() - 100_000,))
    database.events.append("failure", "x", message="new")
    if not open_elsewhere:
        database.close()
    before, content = names(tmp_path), path.read_bytes()
    found = look(path)
    assert found is not None
    assert (found.schema, found.newest_schema, found.machines, found.images) == (len(MIGRATIONS), len(MIGRATIONS), 0, ())
    assert (found.recent_failures, found.last_failure) == (1, ": new")
    assert (names(tmp_path), path.read_bytes()) == (before, content)
    database.close()


def test_no_database_at_all(tmp_path: Path) -> None:
    (tmp_path / "banger.db").write_bytes(b"nonsense" * 1000)
    with pytest.raises(StoreError, match="not usable"):
        look(tmp_path / "banger.db")
