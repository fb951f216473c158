"""git's identity of the host, read by git, and the guest's file that is ours only while nobody changes it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from banger.access.git_identity import PATH, deliver, gitconfig, host_identity, is_ours
from tests.unit.guest.test_real_connection import agent, binary, report, root

__all__ = ["agent", "binary", "report", "root"]

NAME = 'Zoë "Q" \\ Test # ; x'


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.delenv("GIT_CONFIG_GLOBAL", raising=False)
    return home


def git(*words: str) -> str:
    return subprocess.run(["git", *words], capture_output=True, text=True, check=True).stdout


async def test_identity_goes_through_git_unharmed(tmp_path: Path) -> None:
    assert await host_identity() == {}
    git("config", "--global", "user.name", NAME)
    git("config", "--global", "user.email", "z@example.org")
    git("config", "--global", "user.signingkey", "secret")
    identity = await host_identity()
    assert identity == {"user.name": NAME, "user.email": "z@example.org"}
    path = tmp_path / "made"
    path.write_bytes(gitconfig(identity))
    assert git("config", "--file", str(path), "--null", "--list") == f"user.email\nz@example.org\0user.name\n{NAME}\0"
    assert is_ours(path.read_bytes())


async def test_a_broken_configuration_gives_no_identity(home: Path) -> None:
    (home / ".gitconfig").write_text("[user\n")
    assert await host_identity() == {}


def test_any_change_makes_it_somebodys_own(tmp_path: Path) -> None:
    path = tmp_path / "made"
    path.write_bytes(gitconfig({"user.name": "A"}))
    git("config", "--file", str(path), "core.editor", "vi")
    assert not is_ours(path.read_bytes())
    for other in (b"", b"[user]\n", b"\n"):
        assert not is_ours(other)


async def test_delivery(agent, root: Path) -> None:  # type: ignore[no-untyped-def]
    """Against the real guest program: made, brought up to date, left alone."""
    place = root / PATH.lstrip("/")
    first, second = gitconfig({"user.name": "A"}), gitconfig({"user.name": "B"})
    await deliver(agent, first)
    assert place.read_bytes() == first
    await deliver(agent, second)
    assert place.read_bytes() == second
    place.write_bytes(second + b"[core]\n")
    await deliver(agent, first)
    assert place.read_bytes() == second + b"[core]\n"
    place.unlink()
    place.mkdir()
    await deliver(agent, first)
    assert place.is_dir()
