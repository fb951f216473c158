"""The table of events: with the change it tells of or not at all, bounded, resumable."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from banger.model.records import ImageRecord, VMRecord, VMRuntime, VMSpec, VMState
from banger.store import Database, ImageTable, VMTable
from banger.store.events import KEPT


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database.open(tmp_path / "banger.db")
    image = ImageRecord(id="i", name="image", source="", path="/", digest="", size_bytes=1, kernel_name="k", created_at=1.0)
    ImageTable(database).insert(image)
    yield database
    database.close()


def machine() -> VMRecord:
    spec = VMSpec(vcpu_count=1, memory_mib=256, system_overlay_bytes=1, work_disk_bytes=1)
    return VMRecord(id="abc", name="box", image_id="i", image_name="image", state=VMState.CREATED, created_at=1.0, updated_at=1.0, touched_at=1.0, spec=spec)


def told(database: Database, after: int = 0) -> list[tuple[str, str, str]]:
    return [(event.kind, event.state, event.message) for event in database.events.after(after, 100)]


def test_every_change_of_state_is_told_once(database: Database) -> None:
    table = VMTable(database)
    table.insert(machine())
    table.update("abc", lambda r: replace(r, state=VMState.RUNNING))
    table.update("abc", lambda r: replace(r, touched_at=2.0))
    table.update("abc", lambda r: replace(r, runtime=VMRuntime(booted=True)))
    table.update("abc", lambda r: replace(r, state=VMState.ERROR, runtime=VMRuntime(last_error="it broke")))
    table.delete("abc")
    table.delete("abc")
    assert told(database) == [
        ("state", "created", ""),
        ("state", "running", ""),
        ("booted", "running", ""),
        ("state", "error", "it broke"),
        ("state", "deleted", ""),
    ]
    assert {event.vm_name for event in database.events.after(0, 100)} == {"box"}


def test_a_change_that_is_taken_back_is_not_told(database: Database) -> None:
    with pytest.raises(RuntimeError), database.transaction():
        VMTable(database).insert(machine())
        raise RuntimeError("no")
    assert told(database) == []
    assert (database.events.newest(), database.events.oldest()) == (0, 1)


def test_the_newest_are_kept_and_cursors_go_on_in_the_next_daemon(database: Database) -> None:
    with database.transaction():
        for number in range(KEPT + 600):
            database.events.append("stage", "abc", stage=str(number))
    assert database.events.newest() == KEPT + 600
    assert 300 < database.events.oldest() <= 601
    database.execute("DELETE FROM events")
    database.close()
    again = Database.open(database.path)
    again.events.append("stage", "abc")
    assert [event.cursor for event in again.events.after(0, 10)] == [KEPT + 601]
    again.close()


async def test_a_waiter_wakes_for_what_is_new_and_at_the_end(database: Database) -> None:
    waiter = asyncio.create_task(database.events.wait(0))
    await asyncio.sleep(0)
    assert not waiter.done()
    database.events.append("stage", "abc")
    assert await waiter
    waiter = asyncio.create_task(database.events.wait(1))
    await asyncio.sleep(0)
    database.events.close()
    assert not await waiter
