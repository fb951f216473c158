"""Staging directories, their locks, and what interrupted work leaves."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest

from banger.host import locks
from banger.host.locks import try_lock
from banger.image.staging import find_leftovers, name_lock, publish, remove_leftover, remove_leftovers, staged, staging_path
from banger.model.errors import BadRequest, BangerError
from banger.model.names import new_id


@pytest.fixture
def parent(tmp_path: Path) -> Path:
    path = tmp_path / "images"
    path.mkdir()
    return path


def visible(parent: Path) -> list[str]:
    return sorted(path.name for path in parent.iterdir() if not path.name.endswith(".lock"))


def leftover(parent: Path, name: str) -> Path:
    path = staging_path(parent, name, new_id())
    (path / "tree" / "etc").mkdir(parents=True)
    (path / "tree" / "etc" / "passwd").write_text("root")
    return path


async def test_published_whole_with_its_manifest(parent: Path) -> None:
    identifier = new_id()
    async with name_lock(parent, "x"), staged(parent, "x", identifier) as staging:
        (staging / "rootfs.ext4").write_bytes(b"data")
        await publish(staging, parent / identifier, {"name": "x"})
    assert visible(parent) == [identifier]
    assert json.loads((parent / identifier / "manifest.json").read_text()) == {"version": 1, "name": "x"}


async def test_a_failure_leaves_nothing(parent: Path) -> None:
    with pytest.raises(ValueError, match="no"):
        async with name_lock(parent, "x"), staged(parent, "x", new_id()) as staging:
            (staging / "half").touch()
            raise ValueError("no")
    assert visible(parent) == []


async def test_the_next_build_of_the_name_removes_what_the_last_one_left(parent: Path) -> None:
    leftover(parent, "x")
    other = leftover(parent, "x.y")
    async with name_lock(parent, "x"):
        assert visible(parent) == [other.name]


async def test_at_start_half_made_things_go_and_finished_and_foreign_ones_stay(parent: Path) -> None:
    known, unknown = parent / new_id(), parent / new_id()
    for path in (known, unknown, parent / "notes"):
        path.mkdir()
    leftover(parent, "x")
    await remove_leftovers(parent)
    assert visible(parent) == sorted([known.name, unknown.name, "notes"])


async def test_what_another_process_is_building_stays(parent: Path) -> None:
    path = leftover(parent, "x")
    held = try_lock(parent / ".x.lock")
    assert held is not None
    try:
        await remove_leftovers(parent)
        assert path.is_dir()
    finally:
        os.close(held)
    await remove_leftovers(parent)
    assert visible(parent) == []


async def test_no_lock_file_outlives_its_holder(parent: Path) -> None:
    """However many wait: each re-checks that what it has locked still has the name."""
    held = 0

    async def work() -> None:
        nonlocal held
        async with name_lock(parent, "x"):
            held += 1
            assert held == 1
            await asyncio.sleep(0.001)
            held -= 1

    await asyncio.gather(*(work() for _ in range(4)))
    with pytest.raises(ValueError, match="no"):
        async with name_lock(parent, "y"):
            raise ValueError("no")
    assert list(parent.iterdir()) == []


async def test_a_lock_that_was_removed_while_it_was_taken_locks_nothing(parent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = locks.try_lock

    def late(path: Path) -> int | None:
        fd = real(path)
        path.unlink()  # by its last holder, between our open and our flock
        return fd

    monkeypatch.setattr(locks, "try_lock", late)
    assert locks.try_passing_lock(parent / ".x.lock") is None


async def test_at_start_lock_files_of_killed_daemons_go(parent: Path) -> None:
    for name in ("a", "b"):
        (parent / f".{name}.lock").touch()
    held = try_lock(parent / ".b.lock")
    assert held is not None
    try:
        await remove_leftovers(parent)
        assert [path.name for path in parent.iterdir()] == [".b.lock"]
    finally:
        os.close(held)


async def test_waiting_for_another_process_can_be_cancelled(parent: Path) -> None:
    held = try_lock(parent / ".x.lock")
    assert held is not None

    async def wait() -> None:
        async with name_lock(parent, "x"):
            raise AssertionError("the lock was held by another")

    try:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await wait()
    finally:
        os.close(held)


async def test_nothing_to_do_without_a_directory(parent: Path) -> None:
    await remove_leftovers(parent / "absent")


def test_a_name_never_becomes_a_path(parent: Path) -> None:
    with pytest.raises(BadRequest):
        staging_path(parent, "../x", new_id())


async def test_leftovers_are_listed_and_removed_one_by_one(parent: Path) -> None:
    """For ``banger gc``, which runs beside builds: what is held or new stays."""
    known, lost, new = (parent / (digit * 32) for digit in "123")
    for path in (known, lost, new):
        path.mkdir()
    os.utime(lost, (1, 1))
    os.utime(known, (1, 1))
    free, busy = staging_path(parent, "a", "4" * 32), staging_path(parent, "b", "5" * 32)
    (parent / "notes").mkdir()
    async with name_lock(parent, "b"):
        free.mkdir()
        busy.mkdir()
        assert find_leftovers(parent, {known.name}) == [lost, free]
        with pytest.raises(BangerError, match="builds it"):
            await remove_leftover(busy)
    await remove_leftover(free)
    await remove_leftover(lost)
    assert sorted(path.name for path in parent.iterdir() if path.is_dir()) == sorted(path.name for path in (known, new, busy, parent / "notes"))
    assert find_leftovers(parent / "nowhere", set()) == []
