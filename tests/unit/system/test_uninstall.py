"""Machines that run when somebody uninstalls."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from banger.model.errors import BadVersion, BangerError, NoDaemon, NotStopped
from banger.model.installation import Installation
from banger.model.network import network_plan
from banger.model.progress import silent
from banger.model.records import VMRecord, VMSpec, VMState
from banger.system import services, uninstall
from banger.system.places import Places
from banger.system.uninstall import Removal, carry_out, end_machines

INSTALLED = Installation(owner="ada", uid=4242, gid=4242, home=Path("/home/ada"), network=network_plan(), version="1", installed_at="2026-11-20T00:00:00Z")
REMOVAL = Removal(Places(), INSTALLED, (), (), ())


def machine(name: str, state: VMState) -> VMRecord:
    spec = VMSpec(vcpu_count=1, memory_mib=128, system_overlay_bytes=1, work_disk_bytes=1)
    return VMRecord(id=name * 8, name=name, image_id="i", image_name="i", state=state, created_at=0, updated_at=0, touched_at=0, spec=spec)


class Daemon:
    """Stands in for Client."""

    machines: tuple[VMRecord, ...] = ()
    failure: BangerError | None = None

    def __init__(self, endpoint: Any, *, start: bool) -> None:
        assert endpoint.uid == 4242
        assert not start

    def call(self, name: str) -> list[VMRecord]:
        if self.failure is not None:
            raise self.failure
        assert name == "vm.list"
        return list(self.machines)

    def operation(self, name: str, params: dict[str, str], request: object) -> None:
        stopped.append(params["ref"])
        assert name == "vm.stop"

    def __enter__(self) -> Daemon:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...


stopped: list[str] = []


@pytest.fixture(autouse=True)
def daemon(monkeypatch: pytest.MonkeyPatch) -> type[Daemon]:
    stopped.clear()
    kind = type("Running", (Daemon,), {"machines": (machine("box", VMState.RUNNING), machine("old", VMState.STOPPED))})
    monkeypatch.setattr(uninstall, "Client", kind)
    return kind


def test_machines_that_run_keep_it() -> None:
    with pytest.raises(NotStopped, match="1 machine running: box") as raised:
        end_machines(REMOVAL, silent, stop=False, force=False)
    assert "--stop" in raised.value.hint
    assert stopped == []


@pytest.mark.parametrize(("stop", "force"), [(True, False), (False, True)])
def test_they_are_powered_off_on_demand(stop: bool, force: bool) -> None:
    end_machines(REMOVAL, silent, stop=stop, force=force)
    assert stopped == ["box" * 8]


@pytest.mark.parametrize(("failure", "hint"), [(NoDaemon("nobody"), "system restart"), (BadVersion("another"), "/usr/local/bin/banger system uninstall")])
def test_a_daemon_that_cannot_be_asked(failure: BangerError, hint: str, daemon: type[Daemon]) -> None:
    daemon.failure = failure
    with pytest.raises(type(failure)) as raised:
        end_machines(REMOVAL, silent, stop=True, force=False)
    assert hint in raised.value.hint
    assert "--force" in raised.value.hint
    end_machines(REMOVAL, silent, stop=False, force=True)


def test_nothing_is_asked_where_nothing_is_installed(daemon: type[Daemon]) -> None:
    daemon.failure = NoDaemon("nobody")
    end_machines(Removal(Places(), None, (), (), ()), silent, stop=False, force=False)
    end_machines(Removal(Places(Path("/staged")), INSTALLED, (), (), ()), silent, stop=False, force=False)


def test_what_resists_is_told_and_keeps_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "is_systemd", lambda: False)
    library, made = tmp_path / "usr/local/lib/banger", tmp_path / "made"
    places = Places(tmp_path)
    monkeypatch.setattr(Places, "staged", False)
    file, resists = tmp_path / "file", tmp_path / "resists"
    for directory in (library, made, resists):
        directory.mkdir(parents=True)
    file.touch()

    def release(_: Installation) -> None:
        raise BangerError("the bridge stays")

    removal = Removal(places, INSTALLED, (file, resists), (library,), (made,))
    problems = carry_out(removal, silent, release=release)
    assert [problem.split(":")[0] for problem in problems] == ["removing the network", str(resists)]
    assert (file.exists(), made.exists(), library.exists()) == (False, False, True), "the inventory is still needed"
    resists.rmdir()
    assert len(carry_out(removal, silent, release=release)) == 1
    assert not library.exists()
