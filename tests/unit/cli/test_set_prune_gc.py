"""``vm set``, ``vm prune`` and ``gc`` as words and requests."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.cli.conftest import Shell, record
from tests.unit.client.fake_daemon import Call, FakeDaemon, Reply, failure

IDLE = [record("new", 0x1 << 124, state="created"), record("broken", 0x2 << 124, state="error"), record("off", 0x3 << 124, state="stopped")]
RUNNING = record("busy", 0x4 << 124)


def done(result: object) -> Reply:
    return Reply(lines=[{"stage": "grow_work_disk"}, {"done": True, "result": result}])


def test_set_sends_what_was_named(daemon: FakeDaemon, banger: Shell) -> None:
    daemon.routes["POST /v1/vms/box/set"] = done(record())
    words = ("--vcpu", "3", "--memory", "1G", "--disk-size", "9G", "--system-overlay-size", "10G", "--no-nat", "-p", "8080:80", "--unpublish", "[::1]:9")
    result = banger("vm", "set", "box", *words)
    assert (result.status, result.out) == (0, "box\n")
    assert daemon.calls[-1].json == {
        "vcpu_count": 3,
        "memory_mib": 1024,
        "work_disk_bytes": 9 << 30,
        "system_overlay_bytes": 10 << 30,
        "nat": False,
        "ttl": None,
        "idle": None,
        "autostart": None,
        "publish": [{"host_port": 8080, "guest_port": 80, "bind": "127.0.0.1"}],
        "unpublish": ["[::1]:9"],
    }
    banger("vm", "set", "box", "--ttl", "2h", "--idle", "0")
    assert {key: value for key, value in daemon.calls[-1].json.items() if value not in (None, [])} == {"ttl": 7200.0, "idle": 0.0}
    banger("vm", "set", "box", "--nat")
    assert {key: value for key, value in daemon.calls[-1].json.items() if value not in (None, [])} == {"nat": True}


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ((), "nothing to change"),
        (("--vcpu", "0"), "vcpu must be between 1 and 64, not 0"),
        (("--memory", "1"), "memory must be between"),
        (("--disk-size", "0"), "is not a size"),
        (("--disk-size", "1M"), "disk-size must be between"),
    ],
)
def test_set_refuses_nonsense(daemon: FakeDaemon, banger: Shell, words: tuple[str, ...], text: str) -> None:
    result = banger("vm", "set", "box", *words)
    assert result.status == 2
    assert text in result.err
    assert not any(path.endswith("/set") for path in daemon.paths())


def test_set_of_several_machines(daemon: FakeDaemon, banger: Shell) -> None:
    daemon.routes["GET /v1/vms"] = Reply([IDLE[2], RUNNING])
    daemon.routes[f"POST /v1/vms/{IDLE[2]['id']}/set"] = done(IDLE[2])
    daemon.routes[f"POST /v1/vms/{RUNNING['id']}/set"] = failure(409, "not_stopped", "busy is running", hint="banger vm stop busy")
    result = banger("vm", "set", "busy", "off", "--memory", "1G")
    assert (result.status, result.out) == (1, "off\n")
    assert "banger: busy is running\nhint: banger vm stop busy\n" in result.err


def prunable(daemon: FakeDaemon) -> None:
    daemon.routes["GET /v1/vms"] = Reply([*IDLE, RUNNING])
    for one in IDLE:
        daemon.routes[f"POST /v1/vms/{one['id']}/prune"] = done({"id": one["id"], "name": one["name"]})


def test_prune_removes_what_does_not_run(daemon: FakeDaemon, banger: Shell) -> None:
    prunable(daemon)
    result = banger("vm", "prune", "--force")
    head, *lines = result.out.splitlines()
    assert result.status == 0
    assert head.split() == ["ID", "NAME", "STATE", "IMAGE", "DISK", "CREATED"]
    assert [line.split()[1] for line in lines[:3]] == lines[3:] == ["new", "broken", "off"]
    assert sorted(path for path in daemon.paths() if path.startswith("POST")) == [f"POST /v1/vms/{one['id']}/prune" for one in IDLE]
    assert [one["ref"] for one in banger("vm", "prune", "-f", "--json").json] == ["new", "broken", "off"]


def test_prune_dry_run(daemon: FakeDaemon, banger: Shell) -> None:
    prunable(daemon)
    assert [line.split()[1] for line in banger("vm", "prune", "--dry-run").out.splitlines()[1:]] == ["new", "broken", "off"]
    assert [one["name"] for one in banger("vm", "prune", "--dry-run", "--json").json] == ["new", "broken", "off"]
    assert not [path for path in daemon.paths() if path.startswith("POST")]


@pytest.mark.parametrize("words", [(), ("--json",)])
def test_prune_asks_or_refuses(daemon: FakeDaemon, banger: Shell, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    prunable(daemon)
    with Path(os.devnull).open() as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        result = banger("vm", "prune", *words)
    assert result.status == 2
    assert "--force" in result.err
    assert daemon.calls == []


def test_prune_of_nothing(daemon: FakeDaemon, banger: Shell) -> None:
    daemon.routes["GET /v1/vms"] = Reply([RUNNING])
    result = banger("vm", "prune", "--force")
    assert (result.status, result.out) == (0, "")
    assert "nothing to remove" in result.err
    assert banger("vm", "prune", "--force", "--json").json == []


@pytest.mark.parametrize(("answer", "removed"), [(b"y\n", 3), (b"n\n", 0), (b"\n", 0), (b"\x04", 0)])
def test_prune_on_a_terminal(daemon: FakeDaemon, home: Path, answer: bytes, removed: int) -> None:
    prunable(daemon)
    ours, theirs = pty.openpty()
    try:
        os.write(ours, answer)
        command = [sys.executable, "-m", "banger.cli.main", "vm", "prune"]
        result = subprocess.run(command, stdin=theirs, capture_output=True, text=True, timeout=30)
    finally:
        os.close(ours)
        os.close(theirs)
    assert "Remove these 3 machines and their disks?" in result.stderr
    assert "broken" in result.stdout
    assert sum(path.endswith("/prune") for path in daemon.paths()) == removed


def garbage(call: Call) -> Reply:
    removed = not json.loads(call.body)["dry_run"]
    found = [{"kind": "machine", "what": "process 7", "vm_id": "a" * 32, "removed": removed}, {"kind": "staging", "what": "/s/x.staging", "removed": removed}]
    return done(found)


def test_gc(daemon: FakeDaemon, banger: Shell) -> None:
    daemon.routes["POST /v1/gc"] = garbage
    assert [line.split() for line in banger("gc", "--dry-run").out.splitlines()] == [
        ["KIND", "VM", "WHAT", "RESULT"],
        ["machine", "aaaaaaaaaaaa", "process", "7", "there"],
        ["staging", "-", "/s/x.staging", "there"],
    ]
    result = banger("gc", "--json")
    assert (result.status, [one["removed"] for one in result.json]) == (0, [True, True])
    daemon.routes["POST /v1/gc"] = done([{"kind": "directory", "what": "/d", "error": "Directory not empty"}])
    result = banger("gc")
    assert result.status == 1
    assert "Directory not empty" in result.out
    daemon.routes["POST /v1/gc"] = done([])
    assert "nothing is left over" in banger("gc").err
