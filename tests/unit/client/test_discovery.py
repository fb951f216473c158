"""Which daemon is meant, on a host where banger is installed for somebody."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from banger.client import Client, discovery
from banger.client.discovery import find_endpoint, find_layout
from banger.host import installation as installations
from banger.host.installation import format_installation, read_installation
from banger.host.paths import Layout
from banger.model.errors import BadRequest, NoDaemon
from banger.model.installation import Installation
from banger.model.network import network_plan

INSTALLED = Installation(
    owner="ada", uid=os.getuid(), gid=os.getgid(), home=Path("/home/ada"), network=network_plan(), version="1", installed_at="2026-11-20T00:00:00Z"
)


@pytest.fixture
def install_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "etc" / "install.toml"
    file.parent.mkdir(mode=0o755)
    monkeypatch.setattr(discovery, "INSTALL_FILE", file)
    monkeypatch.setattr(installations, "read_installation", lambda: read_installation(file, trusted_uid=os.getuid()))
    return file


def write(file: Path, uid: int) -> None:
    file.write_text(format_installation(replace(INSTALLED, uid=uid)))
    file.chmod(0o644)


def test_the_owner_means_the_system_and_nobody_else_does(install_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_layout() == Layout.from_environment()
    write(install_file, 4711)
    assert find_layout() == Layout.from_environment()
    monkeypatch.setattr(os, "getuid", lambda: 4711)
    monkeypatch.setattr(installations, "read_installation", lambda: replace(INSTALLED, uid=4711))
    assert find_layout() == Layout.system()
    assert find_endpoint().system
    assert find_endpoint().api == Path("/run/banger/bangerd.sock")


def test_what_is_named_wins(install_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installations, "read_installation", lambda: INSTALLED)
    write(install_file, 4711)
    home = {"BANGER_HOME": str(tmp_path)}
    assert find_layout(home).state == tmp_path / "state"
    named = find_endpoint({"BANGER_SOCKET": "/x/y.sock", **home})
    assert (named.api, named.layout, named.system) == (Path("/x/y.sock"), None, False)


def test_a_damaged_file_is_told_and_not_guessed_about(install_file: Path) -> None:
    install_file.write_text("owner = 3")
    install_file.chmod(0o644)
    with pytest.raises(BadRequest, match="not an installation's file"):
        find_layout()


def test_the_systems_daemon_is_never_started_by_us(install_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system = Layout(config=tmp_path / "c", state=tmp_path / "s", cache=tmp_path / "k", runtime=tmp_path / "r")
    system.runtime.mkdir(mode=0o700)
    monkeypatch.setattr(Layout, "system", classmethod(lambda _cls: system))
    monkeypatch.setattr("banger.client.client._SYSTEM_PATIENCE", 0.1)
    for start in (True, False):
        with pytest.raises(NoDaemon) as raised:
            Client.connect(system, start=start)
        assert raised.value.hint == "sudo banger system restart"
    assert list(system.runtime.iterdir()) == []
    assert not system.state.exists()
