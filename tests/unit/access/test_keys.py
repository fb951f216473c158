"""Keys that ssh-keygen makes, and what sshd is told."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from banger.access.keys import KeyPair, ensure_key, remove_half_made
from banger.access.sshd import AUTHORIZED_KEYS, DROP_IN, HOST_KEY, sshd_files
from banger.model.errors import CommandFailed


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """An empty directory."""
    (tmp_path / "keys").mkdir()
    return tmp_path / "keys"


async def test_a_key_is_made_once(place: Path) -> None:
    path = place / "id with space"
    made = await ensure_key(path, "somebody")
    assert path.stat().st_mode & 0o777 == 0o600
    assert await ensure_key(path, "somebody else") == made
    derived = subprocess.run(["ssh-keygen", "-y", "-f", path], capture_output=True, text=True, check=True).stdout
    assert derived.split()[:2] == made.public.split() and made.public.startswith("ssh-ed25519 ")
    assert sorted(one.name for one in place.iterdir()) == ["id with space", "id with space.pub"]


async def test_what_was_left_half_made_is_in_nobodys_way(place: Path) -> None:
    for name in ("key.staging", "key.staging.pub", "key.pub"):
        (place / name).write_text("half")
    made = await ensure_key(place / "key", "c")
    assert made.private.startswith(b"-----BEGIN OPENSSH PRIVATE KEY-----")
    assert sorted(one.name for one in place.iterdir()) == ["key", "key.pub"]
    (place / "key.staging").write_text("half")
    remove_half_made(place / "key")
    assert sorted(one.name for one in place.iterdir()) == ["key", "key.pub"]


async def test_a_damaged_key_is_named(place: Path) -> None:
    await ensure_key(place / "key", "c")
    (place / "key.pub").write_text("nonsense")
    with pytest.raises(CommandFailed, match=r"key\.pub is no ed25519 key"):
        await ensure_key(place / "key", "c")


def test_what_a_guest_gets() -> None:
    files = {file.path: file for file in sshd_files(KeyPair(b"PRIVATE", "ssh-ed25519 HOST"), "ssh-ed25519 USER")}
    assert (files[HOST_KEY].content, files[HOST_KEY].mode) == (b"PRIVATE", 0o600)
    assert files[HOST_KEY + ".pub"].content == b"ssh-ed25519 HOST\n"
    assert files[AUTHORIZED_KEYS].content == b"ssh-ed25519 USER banger\n"
    settings = files[DROP_IN].content.decode()
    for line in ("PermitRootLogin prohibit-password", "PubkeyAuthentication yes", "PasswordAuthentication no", "KbdInteractiveAuthentication no"):
        assert f"{line}\n" in settings
    for never in ("StrictModes", "LogLevel", "PermitRootLogin yes"):
        assert never not in settings
    assert not any(path.startswith(("/root", "/home")) for path in files), "nobody's own files are touched"
