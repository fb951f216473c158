"""A fake daemon behind the command line, and ways to run it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from banger.cli.main import main
from tests.unit.client.fake_daemon import FakeDaemon, Reply, running
from tests.unit.client.samples import RECORD, STATUS

DEFAULTS = {
    "vcpu_count": 2,
    "memory_mib": 3072,
    "work_disk_bytes": 8 << 30,
    "system_overlay_bytes": 8 << 30,
    "image": "debian-bookworm",
    "provenance": {},
}


def record(name: str = "box", number: int = 0, **more: Any) -> dict[str, Any]:
    """A VM record as JSON; ids differ by ``number``."""
    return RECORD | {"name": name, "id": f"{number:032x}"} | more


def detail(name: str = "box", **more: Any) -> dict[str, Any]:
    """A machine's VMDetail as JSON."""
    files = {"directory": "/x", "console_log": "/x/console.log", "vmm_log": "/x/vmm.log", "overlay_allocated_bytes": 0, "work_allocated_bytes": 0}
    return {"record": record(name), "alive": True, "pid": 1} | files | more


@dataclass(frozen=True)
class Result:
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Shell:
    """Runs ``banger`` in this process; what is written to descriptors 1 and 2 is caught."""

    def __init__(self, capfd: pytest.CaptureFixture[str]) -> None:
        self._capfd = capfd

    def __call__(self, *words: str) -> Result:
        self._capfd.readouterr()
        status = main(words)
        out, err = self._capfd.readouterr()
        return Result(status, out, err)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """BANGER_HOME of an instance that nobody has started."""
    monkeypatch.setenv("BANGER_HOME", str(tmp_path / "banger"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(p for p in sys.path if p))
    return tmp_path / "banger"


@pytest.fixture
def banger(home: Path, capfd: pytest.CaptureFixture[str]) -> Shell:
    return Shell(capfd)


@pytest.fixture
def daemon(home: Path) -> Iterator[FakeDaemon]:
    """A daemon that can make ``box``, run commands in it by the stream ``exec`` and delete it."""
    with running(home) as daemon:
        daemon.routes |= {
            "GET /v1/daemon": Reply(STATUS | {"pid": os.getpid()}),
            "GET /v1/defaults": Reply(DEFAULTS),
            "POST /v1/leases": Reply({"id": "lease-1", "token": "lease"}),
            "POST /v1/vms": Reply(lines=[{"stage": "reserve_vm"}, {"stage": "wait_for_guest", "elapsed": 0.2}, {"done": True, "result": record()}]),
            f"POST /v1/vms/{record()['id']}/exec": Reply({"token": "exec"}),
            "GET /v1/vms/box": Reply(detail()),
            "POST /v1/vms/box/exec": Reply({"token": "exec"}),
            f"DELETE /v1/vms/{record()['id']}": Reply(lines=[{"done": True, "result": {"id": record()["id"], "name": "box"}}]),
        }
        daemon.streams["lease"] = lambda guest: _until_closed(guest.receive)
        yield daemon


def _until_closed(receive: Any) -> None:
    while receive() is not None:
        pass
