"""The tables of machines, images and the journal."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from banger.model.errors import AlreadyExists, BadRequest, NotFound
from banger.model.records import ImageRecord, VMRecord, VMRuntime, VMSpec, VMState
from banger.store import Database, ImageTable, Journal, VMTable

IMAGE = ImageRecord(id="i1", name="debian", source="recipe:x", path="/images/i1", digest="sha256:0", size_bytes=7, kernel_name="k", created_at=1.0)


def machine(vm_id: str, name: str) -> VMRecord:
    spec = VMSpec(vcpu_count=2, memory_mib=512, system_overlay_bytes=1 << 30, work_disk_bytes=2 << 30, nat=True)
    return VMRecord(
        id=vm_id, name=name, image_id="i1", image_name="debian", state=VMState.CREATED, created_at=1.0, updated_at=1.0, touched_at=1.0, spec=spec, remove=True
    )


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database.open(tmp_path / "banger.db")
    ImageTable(database).insert(IMAGE)
    yield database
    database.close()


def test_a_machine_survives_the_round_trip(database: Database) -> None:
    table, record = VMTable(database), machine("abc", "box")
    table.insert(record)
    assert table.get("abc") == record
    assert table.list() == (record,)


def test_update_changes_and_stamps(database: Database) -> None:
    table = VMTable(database)
    table.insert(machine("abc", "box"))
    changed = table.update("abc", lambda r: replace(r, state=VMState.RUNNING, runtime=VMRuntime(accelerator="tcg", vmm_uid=1900000000)))
    assert changed.state is VMState.RUNNING
    assert changed.updated_at > 1.0
    assert table.get("abc") == changed
    assert table.used_uids() == {1900000000}


def test_update_of_a_machine_that_is_gone(database: Database) -> None:
    with pytest.raises(NotFound):
        VMTable(database).update("nobody", lambda r: r)


@pytest.mark.parametrize(("reference", "name"), [("box", "box"), ("abc1", "box"), ("abc1f", "box"), ("abc", "abc"), ("abc2", "abc")])
def test_find_by_name_id_or_unique_prefix(database: Database, reference: str, name: str) -> None:
    table = VMTable(database)
    table.insert(machine("abc1f", "box"))
    table.insert(machine("abc2f", "abc"))
    assert table.find(reference).name == name


def test_a_whole_id_wins_over_a_name_like_it(database: Database) -> None:
    table, vm_id = VMTable(database), "0123456789abcdef" * 2
    table.insert(machine(vm_id, "box"))
    table.insert(machine("f" * 32, vm_id))
    assert table.find(vm_id).name == "box"
    assert table.find("f" * 32).name == vm_id


@pytest.mark.parametrize("reference", ["", "nobody", "%", "abc1_"])
def test_find_nothing(database: Database, reference: str) -> None:
    table = VMTable(database)
    table.insert(machine("abc1f", "box"))
    with pytest.raises(NotFound):
        table.find(reference)


def test_an_ambiguous_prefix_names_the_candidates(database: Database) -> None:
    table = VMTable(database)
    table.insert(machine("abc1f", "box"))
    table.insert(machine("abc2f", "cat"))
    with pytest.raises(BadRequest, match=r"ambiguous.*box, cat"):
        table.find("abc")


def test_a_name_that_looks_like_the_id_of_another_machine_is_ambiguous(database: Database) -> None:
    table = VMTable(database)
    table.insert(machine("0123456789abcdef", "box"))
    table.insert(machine("f00", "0123456789ab"))
    with pytest.raises(BadRequest, match=r"2 machines \(0123456789ab, box\)"):
        table.find("0123456789ab")
    assert table.find("box").name == "box"
    assert table.find("f00").name == "0123456789ab"


def test_two_machines_cannot_share_a_name(database: Database) -> None:
    table = VMTable(database)
    table.insert(machine("1", "box"))
    with pytest.raises(AlreadyExists, match="box"):
        table.insert(machine("2", "box"))


def test_an_image_in_use_cannot_be_deleted(database: Database) -> None:
    images, machines = ImageTable(database), VMTable(database)
    machines.insert(machine("1", "box"))
    with pytest.raises(BadRequest, match="in use"):
        images.delete("debian")
    machines.delete("1")
    images.delete("debian")
    assert images.get("debian") is None
    with pytest.raises(NotFound):
        images.delete("debian")


def test_touching_an_image(database: Database) -> None:
    images = ImageTable(database)
    images.touch("i1", 99.5)
    assert images.get("debian") == replace(IMAGE, last_used_at=99.5)


def test_the_journal_remembers_until_closed(database: Database) -> None:
    journal = Journal(database)
    entry = journal.open(op_id="op-1", kind="vm.start", vm_id="1", context="{}")
    journal.write(entry, step=2, done=False, context='{"a":1}')
    (open_entry,) = journal.entries()
    assert (open_entry.op_id, open_entry.kind, open_entry.vm_id, open_entry.step, open_entry.done, open_entry.context) == (
        "op-1",
        "vm.start",
        "1",
        2,
        False,
        '{"a":1}',
    )
    journal.close(entry)
    journal.close(entry)
    assert journal.entries() == ()


def test_two_machines_cannot_share_an_address_or_a_tap(database: Database) -> None:
    table = VMTable(database)
    first = machine("1", "box")
    table.insert(replace(first, runtime=VMRuntime(address="172.30.86.2", tap="banger0-2")))
    with pytest.raises(sqlite3.IntegrityError, match="address"):
        table.insert(replace(machine("2", "cat"), runtime=VMRuntime(address="172.30.86.2")))
    with pytest.raises(sqlite3.IntegrityError, match="tap"):
        table.insert(replace(machine("2", "cat"), runtime=VMRuntime(address="172.30.86.3", tap="banger0-2")))
    table.insert(machine("3", "dog"))
    table.insert(machine("4", "emu"))
    assert table.used_addresses() == {"172.30.86.2"}
    assert table.attached() == {"172.30.86.2": first.spec.nat}
    table.update("1", lambda record: replace(record, runtime=replace(record.runtime, tap="")))
    assert table.used_addresses() == {"172.30.86.2"}
    assert not table.attached()
