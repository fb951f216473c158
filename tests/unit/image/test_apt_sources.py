"""Which mirrors are used. ``apt-get`` and ``apt-config`` are stand-ins that print what is given."""

from __future__ import annotations

from pathlib import Path

import pytest

from banger.image.apt_sources import check_keyring, host_options, source_lines
from banger.image.catalog import Distribution
from banger.model.errors import MissingTool

DEBIAN = Distribution(
    origin="Debian",
    keyring="/k.gpg",
    keyring_package="debian-archive-keyring",
    components=("main",),
    mirrors={"{suite}": "http://deb.debian.org/debian", "{suite}-security": "http://deb.debian.org/debian-security"},
)
DEFAULT = [
    "deb [signed-by=/k.gpg] http://deb.debian.org/debian bookworm main",
    "deb [signed-by=/k.gpg] http://deb.debian.org/debian-security bookworm-security main",
]


def stand_in(monkeypatch: pytest.MonkeyPatch, directory: Path, tool: str, output: str, status: int = 0) -> None:
    (directory / "output").write_text(output)
    script = directory / tool
    script.write_text(f"#!/bin/sh\ncat '{directory}/output'\nexit {status}\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(directory))


@pytest.mark.parametrize(
    ("targets", "status", "mirror"),
    [
        ("Debian|bookworm|main|https://mirror.example/debian/\n", 0, "https://mirror.example/debian"),
        ("", 0, None),
        ("E: broken\n", 100, None),
        ("Tailscale|bookworm|main|https://pkgs.tailscale.com/stable/debian/\n", 0, None),  # same names, another publisher
        ("|bookworm|main|https://never.fetched/debian/\n", 0, None),
        ("Debian|bookworm|contrib|https://mirror.example/debian/\n", 0, None),
        ("Debian|trixie|main|https://mirror.example/debian/\n", 0, None),
        ("Debian|bookworm|main|https://user:secret@mirror.example/debian/\n", 0, None),
        ("Debian|bookworm|main|file:/srv/debian/\n", 0, None),
        ("Debian|bookworm|main|https://mirror.example/a b/\n", 0, None),
    ],
)
async def test_the_hosts_own_mirror_is_used_where_it_fits(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, targets: str, status: int, mirror: str | None
) -> None:
    stand_in(monkeypatch, tmp_path, "apt-get", targets, status)
    expected = list(DEFAULT)
    if mirror:
        expected[0] = f"deb [signed-by=/k.gpg] {mirror} bookworm main"
    assert await source_lines(DEBIAN, "bookworm") == expected


async def test_only_the_way_to_the_network_is_taken_from_the_host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wanted = ['Acquire::http::Proxy "http://proxy:3128";', 'Acquire::https::Proxy::deb.debian.org "DIRECT";', 'Acquire::Check-Valid-Until "false";']
    others = [
        'APT::Update::Post-Invoke:: "rm -rf /";',
        'Acquire::http::Proxy-Auto-Detect "/usr/bin/detect";',
        'Acquire::http::Proxy "a"; APT::Get::AllowUnauthenticated "1";',
        'Acquire::AllowInsecureRepositories "1";',
    ]
    stand_in(monkeypatch, tmp_path, "apt-config", "\n".join([*others, *wanted, ""]))
    assert await host_options() == wanted


def test_a_missing_keyring_names_its_package() -> None:
    with pytest.raises(MissingTool) as caught:
        check_keyring(DEBIAN)
    assert caught.value.hint == "sudo apt-get install debian-archive-keyring"
