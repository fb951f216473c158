"""Checks of the host: on this one, and on hosts made of files."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from banger.doctor import host
from tests.unit.doctor.grounds import make_ground, put

MOUNTS = """\
22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw
30 22 0:40 / /net/my\\040home rw,nosuid - nfs4 server:/home rw
31 22 0:41 / /stick ro - vfat /dev/sdb1 ro
"""


def test_architecture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert host.architecture(make_ground(tmp_path)).status == "pass"
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert host.architecture(make_ground(tmp_path)).detail.startswith("aarch64")
    assert host.architecture(make_ground(tmp_path)).status == "fail"


@pytest.mark.parametrize(("kib", "status"), [(8 << 20, "pass"), (100 << 10, "warn")])
def test_memory(tmp_path: Path, kib: int, status: str) -> None:
    ground = make_ground(tmp_path)
    put(ground, "/proc/meminfo", f"MemTotal:       99999999 kB\nMemAvailable:   {kib} kB\n")
    found = host.memory(ground)
    assert found.status == status
    assert bool(found.remedy) == (status == "warn")


def test_the_nearest_mount_decides() -> None:
    assert host.mount_of(Path("/home/x"), MOUNTS)[:2] == ("/", "ext4")
    place, kind, options = host.mount_of(Path("/net/my home/x"), MOUNTS)
    assert (place, kind, "nosuid" in options) == ("/net/my home", "nfs4", True)
    assert "ro" in host.mount_of(Path("/stick"), MOUNTS)[2]
    assert host.mount_of(Path("/stickers"), MOUNTS)[0] == "/"


@pytest.mark.parametrize(
    ("kind", "options", "status", "word"),
    [
        ("ext4", "rw", "pass", "sparse"),
        ("btrfs", "rw", "pass", "share their blocks"),
        ("nfs4", "rw", "fail", "network file system"),
        ("vfat", "rw", "fail", "sparse"),
        ("tmpfs", "rw", "warn", "in memory"),
        ("ext4", "ro", "fail", "read-only"),
    ],
)
def test_file_systems(tmp_path: Path, kind: str, options: str, status: str, word: str) -> None:
    ground = make_ground(tmp_path)
    put(ground, "/proc/self/mountinfo", f"22 1 8:1 / / {options},relatime - {kind} /dev/x {options}\n")
    found = host.file_system(ground)
    assert (found.status, word in found.detail) == (status, True)


@pytest.mark.skipif(os.getuid() != 0, reason="mounting takes root")
def test_a_small_disk(tmp_path: Path) -> None:
    """A real one of 8 MiB and 50 inodes, in a mount namespace."""
    home = tmp_path / "small"
    home.mkdir()
    script = f"mount -t tmpfs -o size=8m,nr_inodes=50 tmpfs {home} && mkdir {home}/state && exec {sys.executable} -m banger.cli.main doctor --json"
    done = subprocess.run(["unshare", "--mount", "sh", "-c", script], env={**os.environ, "BANGER_HOME": str(home)}, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    for ident, status in (("host.disk-space", "fail"), ("host.inodes", "warn"), ("host.file-system", "warn")):
        assert f'"id": "{ident}"' in done.stdout
        after = done.stdout.split(f'"id": "{ident}"')[1]
        assert after.split('"status": "')[1].startswith(status)


def test_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert host.clock(make_ground(tmp_path)).status == "pass"
    monkeypatch.setattr(time, "time", lambda: 86400.0)
    assert host.clock(make_ground(tmp_path)).status == "fail"
    assert "1970" in host.clock(make_ground(tmp_path)).detail


def test_open_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ground = make_ground(tmp_path)
    for limit, status in ((resource.RLIM_INFINITY, "pass"), (65536, "pass"), (1024, "warn")):
        monkeypatch.setattr(resource, "getrlimit", lambda kind, limit=limit: (64, limit))
        assert host.open_files(ground).status == status


def test_containers_and_swap(tmp_path: Path) -> None:
    ground = make_ground(tmp_path)
    assert host.container(ground).status == "skip"
    put(ground, "/run/.containerenv")
    assert "Podman" in host.container(ground).detail
    assert "no swap" in host.swappiness(ground).detail
    put(ground, "/proc/swaps", "Filename Type Size Used Priority\n/swap file 1 0 -2\n")
    assert "1 in use" in host.swappiness(ground).detail
