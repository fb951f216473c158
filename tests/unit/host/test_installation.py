"""install.toml: what is written is read again, and nothing is believed that others could have written."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from banger.host.installation import format_installation, read_installation
from banger.model.errors import BadRequest, Unauthorized
from banger.model.installation import Installation
from banger.model.network import network_plan

INSTALLATION = Installation(
    owner="joe",
    uid=1000,
    gid=1000,
    home=Path("/home/joe"),
    network=network_plan("banger0", "172.30.86.0/24"),
    version="0.1.0",
    installed_at="2026-11-20T10:00:00Z",
    reachable=("192.168.1.0/24", "10.1.2.3/32"),
)
US = os.getuid()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    directory = tmp_path / "banger"
    directory.mkdir(mode=0o755)
    path = directory / "install.toml"
    path.write_text(format_installation(INSTALLATION))
    path.chmod(0o644)
    return path


def test_round_trip(file: Path) -> None:
    assert read_installation(file, trusted_uid=US) == INSTALLATION


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=40))
def test_any_home_round_trips(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    path = tmp_path_factory.mktemp("install") / "install.toml"
    installation = replace(INSTALLATION, home=Path("/home") / name.lstrip("/"), reachable=())
    path.write_text(format_installation(installation), encoding="utf-8")
    path.chmod(0o644)
    assert read_installation(path, trusted_uid=US) == installation


def test_nothing_is_installed(tmp_path: Path) -> None:
    assert read_installation(tmp_path / "install.toml", trusted_uid=US) is None
    assert read_installation(tmp_path / "none" / "install.toml", trusted_uid=US) is None


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
def test_what_others_may_write_is_refused(file: Path, mode: int) -> None:
    file.chmod(mode)
    with pytest.raises(Unauthorized, match="others may write"):
        read_installation(file, trusted_uid=US)


def test_a_directory_that_others_may_write_is_refused(file: Path) -> None:
    file.parent.chmod(0o777)
    with pytest.raises(Unauthorized, match="others may write"):
        read_installation(file, trusted_uid=US)


def test_another_owner_is_refused(file: Path) -> None:
    with pytest.raises(Unauthorized, match="belongs to uid"):
        read_installation(file, trusted_uid=US + 1)


def test_a_link_is_refused(file: Path) -> None:
    real = file.with_name("real")
    file.rename(real)
    file.symlink_to(real)
    with pytest.raises(Unauthorized, match="symbolic link"):
        read_installation(file, trusted_uid=US)


def test_a_fifo_is_refused_without_waiting(file: Path) -> None:
    file.unlink()
    os.mkfifo(file, 0o644)
    with pytest.raises(BadRequest):
        read_installation(file, trusted_uid=US)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("uid = 1000", "uid = 0"),
        ("uid = 1000", "uid = true"),
        ("uid = 1000", "uid = 1879048192"),
        ("gid = 1000", "gid = -1"),
        ('"joe"', '"joe\\nroot"'),
        ('"/home/joe"', '"joe"'),
        ('"banger0"', '"eth0; rm"'),
        ('"172.30.86.0/24"', '"8.8.8.0/24"'),
        ('"192.168.1.0/24"', '"192.168.1.0/33"'),
        ('"192.168.1.0/24"', "5"),
        ("[owner]", "[other]"),
        ('version = "0.1.0"', ""),
        ("[owner]", "owner = 5\n[a]"),
        ("uid", "uid uid"),
    ],
)
def test_nonsense_is_refused_with_the_file_named(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    with pytest.raises(BadRequest, match=r"install\.toml"):
        read_installation(file, trusted_uid=US)
