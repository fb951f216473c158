"""Opening, migrating and refusing databases."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from banger.model.errors import StoreError
from banger.store import Database
from banger.store.database import BALLAST_BYTES, advice
from banger.store.migrations import MIGRATIONS, Migration


def schema_of(path: Path) -> set[tuple[str, str]]:
    connection = sqlite3.connect(path)
    rows = {(name, sql) for name, sql in connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL")}
    connection.close()
    return rows


def test_fresh_schema_equals_replayed_migrations(tmp_path: Path) -> None:
    Database.open(tmp_path / "fresh.db").close()
    replayed = sqlite3.connect(tmp_path / "replayed.db")
    for migration in MIGRATIONS:
        for statement in migration.statements:
            replayed.execute(statement)
    replayed.close()
    assert schema_of(tmp_path / "fresh.db") == schema_of(tmp_path / "replayed.db")


def test_opening_twice_applies_nothing_twice(tmp_path: Path) -> None:
    for _ in range(2):
        database = Database.open(tmp_path / "banger.db")
        assert database.execute("PRAGMA user_version").fetchone()[0] == len(MIGRATIONS)
        database.close()


def test_a_newer_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "banger.db"
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    connection.execute("CREATE TABLE future (x)")
    connection.commit()
    connection.close()
    before = schema_of(path)
    with pytest.raises(StoreError, match="newer banger"):
        Database.open(path)
    assert schema_of(path) == before


def test_a_damaged_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "banger.db"
    path.write_bytes(b"this is no database" * 100)
    with pytest.raises(StoreError, match="not usable"):
        Database.open(path)
    assert path.read_bytes() == b"this is no database" * 100


def test_the_ballast_is_kept_spent_and_kept_again(tmp_path: Path) -> None:
    database = Database.open(tmp_path / "banger.db")
    ballast = tmp_path / "banger.db.ballast"
    assert ballast.stat().st_blocks * 512 >= BALLAST_BYTES
    assert database.spend_ballast()
    assert not ballast.exists()
    assert not database.spend_ballast()
    database.keep_ballast()
    assert ballast.stat().st_size == BALLAST_BYTES
    database.close()


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("SQLITE_NOTADB", "mv "),
        ("SQLITE_CORRUPT", "mv "),
        ("SQLITE_READONLY_DIRECTORY", "writable"),
        ("SQLITE_CANTOPEN", "writable"),
        ("SQLITE_FULL", "df "),
        ("SQLITE_IOERR_WRITE", "df "),
    ],
)
def test_only_a_damaged_database_may_be_moved_away(tmp_path: Path, name: str, word: str) -> None:
    error = sqlite3.OperationalError("what sqlite says")
    error.sqlite_errorname = name
    hint = advice(tmp_path / "banger.db", error)
    assert word in hint
    assert ("mv " in hint) is (word == "mv ")


def test_a_failed_transaction_leaves_nothing(tmp_path: Path) -> None:
    database = Database.open(tmp_path / "banger.db")
    with pytest.raises(ZeroDivisionError), database.transaction():
        database.execute("INSERT INTO kernels VALUES ('1', 'k', '{}')")
        1 / 0  # noqa: B018
    assert database.execute("SELECT count(*) FROM kernels").fetchone()[0] == 0
    database.close()


HALF = 10**9


def with_machines(path: Path) -> None:
    """A database with enough in it that a half of it is damaged."""
    database = Database.open(path)
    for number in range(200):
        database.execute("INSERT INTO kernels VALUES (?, ?, ?)", (str(number), f"kernel-{number}", "x" * 400))
    database.close()


def bytes_of(path: Path) -> dict[str, bytes]:
    """Content of what is there beside SQLite's own index; it may make an empty log."""
    files = [one for one in path.parent.iterdir() if one.is_file() and not one.name.endswith("-shm")]
    return {one.name: content for one in files if (content := one.read_bytes()) or one == path}


@pytest.mark.parametrize("keep", [0, 1, 50, 511, HALF, -4096])
def test_a_truncated_database_is_refused_and_left_alone(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "banger.db"
    with_machines(path)
    size = path.stat().st_size
    os.truncate(path, size // 2 if keep == HALF else size + keep if keep < 0 else keep)
    before = bytes_of(path)
    with pytest.raises(StoreError, match="not usable") as caught:
        Database.open(path)
    assert "mv " in caught.value.hint
    assert bytes_of(path) == before


def test_a_newer_database_with_unsaved_work_is_left_alone_to_the_byte(tmp_path: Path) -> None:
    """As its daemon left it when it was killed: the write-ahead log is still there."""
    path, killed = tmp_path / "banger.db", tmp_path / "killed"
    with_machines(path)
    newer = Database.open(path)
    newer.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    killed.mkdir()
    for name in ("banger.db", "banger.db-wal"):
        shutil.copyfile(tmp_path / name, killed / name)
    newer.close()
    before = bytes_of(killed / "banger.db")
    assert before["banger.db-wal"]
    with pytest.raises(StoreError, match="newer banger"):
        Database.open(killed / "banger.db")
    assert bytes_of(killed / "banger.db") == before


def test_unsaved_work_of_a_killed_daemon_is_there(tmp_path: Path) -> None:
    path, killed = tmp_path / "banger.db", tmp_path / "killed"
    database = Database.open(path)
    database.execute("INSERT INTO kernels VALUES ('1', 'late', '{}')")
    killed.mkdir()
    for name in ("banger.db", "banger.db-wal"):
        shutil.copyfile(tmp_path / name, killed / name)
    database.close()
    again = Database.open(killed / "banger.db")
    assert again.execute("SELECT name FROM kernels").fetchone()[0] == "late"
    again.close()


@pytest.fixture
def migrations(monkeypatch: pytest.MonkeyPatch) -> tuple[Migration, ...]:
    """Two more migrations than there are, the last of which fails until it is corrected."""
    more = (*MIGRATIONS, Migration("more", ("CREATE TABLE more (x)",)), Migration("most", ("CREATE TABLE more (x)",)))
    monkeypatch.setattr("banger.store.database.MIGRATIONS", more)
    return more


def test_a_copy_is_kept_before_each_migration(tmp_path: Path, migrations: tuple[Migration, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    path, count = tmp_path / "banger.db", len(migrations)
    monkeypatch.setattr("banger.store.database.MIGRATIONS", migrations[: count - 2])
    with_machines(path)
    old = schema_of(path)
    monkeypatch.setattr("banger.store.database.MIGRATIONS", migrations)
    for _ in range(2):
        with pytest.raises(StoreError, match="not usable"):
            Database.open(path)
    copies = [tmp_path / f"banger.db.before-{count - 1}", tmp_path / f"banger.db.before-{count}"]
    assert sorted(tmp_path.glob("banger.db.before*")) == copies
    assert schema_of(copies[0]) == old
    assert schema_of(copies[1]) == schema_of(path)
    assert {copy.stat().st_mode & 0o777 for copy in copies} == {0o600}
    restored = sqlite3.connect(copies[0])
    assert restored.execute("SELECT count(*) FROM kernels").fetchone()[0] == 200
    restored.close()


def test_a_fresh_database_needs_no_copy(tmp_path: Path) -> None:
    Database.open(tmp_path / "banger.db").close()
    assert list(tmp_path.glob("*before*")) == []


def test_no_copy_no_migration(tmp_path: Path, migrations: tuple[Migration, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "banger.db"
    monkeypatch.setattr("banger.store.database.MIGRATIONS", migrations[:-2])
    with_machines(path)
    (tmp_path / f"banger.db.before-{len(migrations) - 1}").mkdir()
    before = schema_of(path)
    monkeypatch.setattr("banger.store.database.MIGRATIONS", migrations[:-1])
    with pytest.raises(StoreError, match="cannot keep a copy"):
        Database.open(path)
    assert schema_of(path) == before
    assert list(tmp_path.glob("*.staging")) == []


def test_a_failed_first_start_can_be_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("banger.store.database.MIGRATIONS", (Migration("broken", ("nonsense",)),))
    with pytest.raises(StoreError):
        Database.open(tmp_path / "banger.db")
    monkeypatch.undo()
    Database.open(tmp_path / "banger.db").close()


def test_no_database_is_begun_beside_what_only_a_lost_one_knows(tmp_path: Path) -> None:
    vms, images = tmp_path / "vms", tmp_path / "images"
    (vms / "a1").mkdir(parents=True)
    (images / "x.staging").mkdir(parents=True)
    path = tmp_path / "banger.db"
    with pytest.raises(StoreError, match=f"is missing, and only it knows what is there: 1 in {vms}$") as caught:
        Database.open(path, contents=(vms, images))
    assert f"mv {tmp_path} " in caught.value.hint
    assert not path.exists()
    (vms / "a1").rmdir()
    Database.open(path, contents=(vms, images)).close()
    (vms / "a1").mkdir()
    Database.open(path, contents=(vms, images)).close()


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_a_database_that_is_no_file(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "banger.db")
    with pytest.raises(StoreError, match="it is not a file") as caught:
        Database.open(tmp_path / "banger.db")
    assert "space" not in caught.value.hint and "mv " in caught.value.hint


def test_the_ballast_comes_back_when_there_is_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("banger.store.database._BALLAST_RETRY_SECONDS", 0.0)
    database = Database.open(tmp_path / "banger.db")
    ballast = tmp_path / "banger.db.ballast"
    assert database.spend_ballast()

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(os, "posix_fallocate", refuse)
        with database.transaction():
            pass
        assert not ballast.exists()
    with database.transaction():
        pass
    assert ballast.stat().st_size == BALLAST_BYTES
    database.close()
