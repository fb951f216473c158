"""Where a reader of events begins, and what one is told who comes too late."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from banger.daemon.feed import EventFeed
from banger.store import Database


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database.open(tmp_path / "banger.db")
    with database.transaction():
        for number in range(600):
            database.events.append("stage", "abc", stage=str(number + 1))
    yield database
    database.close()


async def read(database: Database, query: dict[str, str]) -> list[dict[str, Any]]:
    with EventFeed(database.events, query).followed() as chunks:
        return [json.loads(line) async for chunk in chunks for line in chunk.splitlines()]


async def test_it_comes_in_pages_and_misses_nothing(database: Database) -> None:
    assert [event["cursor"] for event in await read(database, {"since": "0"})] == list(range(1, 601))


async def test_without_a_cursor_the_last_hundred(database: Database) -> None:
    assert [event["stage"] for event in await read(database, {})] == [str(number) for number in range(501, 601)]


async def test_following_without_a_cursor_begins_now_and_ends_with_the_table(database: Database) -> None:
    database.events.close()
    assert await read(database, {"follow": "1"}) == []


async def test_who_comes_too_late_is_told_how_much_is_gone(database: Database) -> None:
    database.execute("DELETE FROM events WHERE cursor <= 590")
    first, *rest = await read(database, {"since": "50"})
    assert (first["kind"], first["cursor"], first["message"]) == ("dropped", 590, "540 earlier events are not kept")
    assert [event["cursor"] for event in rest] == list(range(591, 601))
