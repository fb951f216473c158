"""Checks of an instance: settings, directories, database, keys, daemon."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
from pathlib import Path

import pytest

from banger.api.types import DaemonStatus
from banger.doctor import instance
from banger.doctor.fixes import apply
from banger.doctor.ground import Ground
from banger.model.errors import BadRequest, DaemonUnreachable, StoreError
from banger.store import Database
from tests.unit.client.samples import STATUS
from tests.unit.doctor.grounds import make_ground


@pytest.fixture
def ground(tmp_path: Path) -> Ground:
    made = make_ground(tmp_path)
    for path in (made.layout.state, made.layout.ssh, made.layout.runtime):
        path.mkdir(parents=True, mode=0o700, exist_ok=True)
    return made


def test_configuration(tmp_path: Path) -> None:
    assert "built in" in instance.configuration(make_ground(tmp_path)).detail
    broken = make_ground(tmp_path, config=None, config_error=BadRequest("config.toml: no such key", hint="remove it"))
    assert (instance.configuration(broken).status, instance.machine_size(broken).status) == ("fail", "skip")
    assert "memory" not in instance.machine_size(make_ground(tmp_path)).detail
    assert "MiB (auto)" in instance.machine_size(make_ground(tmp_path)).detail


def test_directories_are_private(ground: Ground) -> None:
    assert instance.directories(ground).status == "pass"
    ground.layout.ssh.chmod(0o755)
    found = instance.directories(ground)
    assert (found.status, found.remedy) == ("fail", f"chmod 700 {ground.layout.ssh}")
    assert found.fix is not None
    told: list[str] = []
    apply(ground, found.fix, told.append)
    assert told == [found.remedy]
    assert instance.directories(ground).status == "pass"


def test_a_directory_that_is_somebody_elses_or_none(tmp_path: Path, ground: Ground) -> None:
    other = make_ground(tmp_path, uid=os.getuid() + 1, user="other")
    assert "chown -R other:" in instance.directories(other).remedy
    ground.layout.ssh.rmdir()
    ground.layout.ssh.symlink_to("/tmp")
    assert "not a directory" in instance.directories(ground).detail


def test_the_database(ground: Ground) -> None:
    assert "will be made" in instance.store(ground).detail
    Database.open(ground.layout.database).close()
    assert instance.store(ground).detail.endswith(", 0 machines")
    with sqlite3.connect(ground.layout.database) as connection:
        connection.execute("PRAGMA user_version = 1")
    connection.close()
    assert "keeps a copy" in instance.store(ground).detail
    with sqlite3.connect(ground.layout.database) as connection:
        connection.execute("PRAGMA user_version = 999")
    connection.close()
    found = instance.store(ground)
    assert (found.status, "newer banger (schema 999" in found.detail) == ("fail", True)
    ground.layout.database.write_bytes(b"nonsense" * 1000)
    with pytest.raises(StoreError, match="not usable"):
        instance.store(ground)


def test_failures_of_the_last_day(ground: Ground) -> None:
    assert "none" in instance.failures(ground).detail
    database = Database.open(ground.layout.database)
    database.events.append("failure", "x", operation="vm.start", message="no room\nat all")
    database.close()
    assert "1 in the last 24 hours" in instance.failures(ground).detail
    assert instance.failures(ground).detail.endswith("no room")


def test_the_daemon(tmp_path: Path, ground: Ground) -> None:
    assert "the next command starts it" in instance.daemon(ground).detail
    lines = [{"level": "critical", "message": "cannot start", "traceback": "Traceback ...\nStoreError: the disk is full"}]
    ground.layout.daemon_log.write_text("\n".join(map(json.dumps, lines)) + "\nno JSON\n")
    found = instance.daemon(ground)
    assert (found.status, found.detail.endswith("StoreError: the disk is full")) == ("warn", True)
    ground.layout.daemon_log.write_text("\n".join(map(json.dumps, [*lines, {"level": "info", "message": "ready"}])))
    assert instance.daemon(ground).status == "pass"
    hangs = make_ground(tmp_path, daemon_error=DaemonUnreachable("the daemon does not answer", hint="see its log"))
    assert instance.daemon(hangs).status == "fail"
    assert "pid 1" in instance.daemon(make_ground(tmp_path, daemon=DaemonStatus(**STATUS))).detail


def test_versions(tmp_path: Path) -> None:
    assert instance.versions(make_ground(tmp_path, daemon=DaemonStatus(**STATUS))).status == "pass"
    found = instance.versions(make_ground(tmp_path, daemon=DaemonStatus(**STATUS | {"version": "0.0.1"})))
    assert (found.status, found.remedy) == ("warn", "banger daemon stop")


def test_the_ssh_key(ground: Ground) -> None:
    assert instance.ssh_key(ground).status == "pass"
    key = ground.layout.ssh_identity
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", key], check=True)
    public = key.with_name("id_ed25519.pub")
    whole = public.read_text().split()[:2]
    assert instance.ssh_key(ground).status == "pass"
    key.chmod(0o644)
    found = instance.ssh_key(ground)
    assert (found.status, found.remedy) == ("fail", f"chmod 600 {key}")
    key.chmod(0o600)
    public.unlink()
    found = instance.ssh_key(ground)
    assert (found.status, found.remedy) == ("fail", f"ssh-keygen -y -f {key} > {public}")
    assert found.fix is not None
    apply(ground, found.fix, lambda step: None)
    assert public.read_text().split()[:2] == whole
    assert instance.ssh_key(ground).status == "pass"


def test_the_ssh_configuration(ground: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert "--install" in instance.ssh_include(ground).detail
