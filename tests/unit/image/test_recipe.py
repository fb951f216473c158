"""From an unpacked tree to a finished ext4, really, as whoever runs the tests; only mmdebstrap is replaced by a small tree."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from banger.host.run import SEARCH_PATH, run
from banger.image import namespace, recipe
from banger.image.catalog import Distribution, Recipe, embedded
from banger.model.errors import NoSpace
from banger.model.progress import Report, silent

pytestmark = pytest.mark.usefixtures("needs_namespace")

RECIPE = Recipe(
    name="small",
    description="",
    kernel="k",
    distribution="debian",
    suite="bookworm",
    packages=(),
    scratch_bytes=1,
    remove=("/dev/*", "/run/*", "/etc/ssh/ssh_host_*", "/nothing/here/*"),
    links={"/etc/systemd/system/tmp.mount": "/dev/null", "/etc/hostname": "elsewhere"},
    files={"/etc/resolv.conf": "", "/etc/new/deep/file": "text\n"},
)
DEBIAN = embedded().distributions["debian"]
MAKE_TREE = Path(__file__).with_name("make_tree.py")


@pytest.fixture
def staging(tmp_path: Path) -> Path:
    path = tmp_path / "with space" / "small.staging"
    path.mkdir(parents=True)
    path.parent.chmod(0o700)
    return path


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    path = tmp_path / "outside"
    path.mkdir()
    (path / "victim").write_text("untouched")
    return path


@pytest.fixture
def small_tree(monkeypatch: pytest.MonkeyPatch, outside: Path) -> None:
    async def bootstrap(recipe: Recipe, distribution: Distribution, staging: Path, report: Report) -> None:
        (staging / "tmp").mkdir()
        await run(namespace.inside([sys.executable, "-I", MAKE_TREE, staging / "tree", outside]), deadline=30)

    monkeypatch.setattr("banger.image.recipe._bootstrap", bootstrap)
    # Everything but mmdebstrap itself must be here.
    monkeypatch.setattr("banger.image.recipe.check_host", lambda distribution: namespace.check())


def debugfs(image: Path, command: str) -> str:
    argv = ["debugfs", "-R", command, str(image)]
    return subprocess.run(argv, check=True, capture_output=True, text=True, errors="surrogateescape", env={"PATH": SEARCH_PATH}).stdout


def facts(image: Path, path: str) -> tuple[str, int, int, int, int]:
    """Type, mode, owner, group and number of names of a file in the image."""
    text = debugfs(image, f"stat {path}")
    match = re.search(r"Type: (\w+)\s+Mode:\s+(\d+).*User:\s+(\d+)\s+Group:\s+(\d+).*Links: (\d+)", text, re.DOTALL)
    assert match, text
    return match[1], int(match[2], 8), int(match[3]), int(match[4]), int(match[5])


@pytest.mark.usefixtures("small_tree")
async def test_owners_modes_links_and_capabilities_arrive_exactly(staging: Path) -> None:
    tree = await recipe.build(RECIPE, DEBIAN, staging, silent)
    image = staging / "rootfs.ext4"
    subprocess.run(["e2fsck", "-fn", image], check=True, capture_output=True, env={"PATH": SEARCH_PATH})
    assert facts(image, "/usr/bin/sudo") == facts(image, "/usr/bin/sudo2") == ("regular", 0o4755, 0, 0, 2)
    assert facts(image, "/usr/bin/expiry") == ("regular", 0o2755, 0, 42, 1)
    assert facts(image, "/etc/shadow") == ("regular", 0o000, 0, 0, 1)
    assert facts(image, "/home/user/file") == ("regular", 0o600, 1000, 1000, 1)
    assert facts(image, "/home/user/last") == ("regular", 0o600, 65534, 65534, 1)
    assert facts(image, "/var/tmp") == ("directory", 0o1777, 0, 0, 2)
    assert facts(image, "/")[:4] == ("directory", 0o755, 0, 0)
    assert "01 00 00 02 00 20 00 00" in debugfs(image, "ea_get -x /usr/bin/ping security.capability")
    assert debugfs(image, "cat /etc/long") == "x" * 200
    assert debugfs(image, "cat /usr/bin/sudo") == "S" * 5000
    assert tree.packages == {"git": "1:2.39", "dash": "0.5"}


@pytest.mark.usefixtures("small_tree")
async def test_the_recipes_changes_are_made_inside_the_tree_alone(staging: Path, outside: Path) -> None:
    hostile = dataclasses.replace(RECIPE, files={**RECIPE.files, "/etc/default/locale": "LANG=C"}, remove=(*RECIPE.remove, "/etc/default/*"))
    await recipe.build(hostile, DEBIAN, staging, silent)
    image = staging / "rootfs.ext4"
    assert [p.name for p in outside.iterdir()] == ["victim"]
    assert (outside / "victim").read_text() == "untouched"
    assert facts(image, "/etc/resolv.conf") == ("regular", 0o644, 0, 0, 1)
    assert debugfs(image, "cat /etc/new/deep/file") == "text\n"
    assert 'Fast link dest: "/dev/null"' in debugfs(image, "stat /etc/systemd/system/tmp.mount")
    assert 'Fast link dest: "elsewhere"' in debugfs(image, "stat /etc/hostname")
    assert "TIMESTAMP_NSEC=" in debugfs(image, "cat /etc/.updated")
    for gone in ("/etc/ssh/ssh_host_rsa_key", "/run/lock", "/run/left.sock"):
        assert "Inode:" not in debugfs(image, f"stat {gone}")
    assert debugfs(image, f"cat {outside}/locale") == "LANG=C"
    assert facts(image, "/dev")[0] == "directory"


@pytest.mark.usefixtures("small_tree")
async def test_only_the_file_system_is_left_and_it_has_little_slack(staging: Path) -> None:
    tree = await recipe.build(RECIPE, DEBIAN, staging, silent)
    assert os.listdir(staging) == ["rootfs.ext4"]
    image = staging / "rootfs.ext4"
    info = image.stat()
    assert info.st_size == recipe.filesystem_bytes(tree)
    assert 50_000_000 < info.st_size < 80_000_000
    assert info.st_blocks * 512 < 2_000_000  # the sparse file costs nothing
    assert info.st_mode & 0o777 == 0o644
    assert info.st_uid == os.getuid()


@pytest.mark.usefixtures("small_tree")
async def test_both_kinds_of_leftovers_can_be_removed(staging: Path) -> None:
    await run(namespace.inside([sys.executable, "-I", MAKE_TREE, staging / "tree", "/outside"]), deadline=30)
    assert (staging / "tree").is_dir()
    await namespace.remove(staging)
    assert not staging.exists()
    await namespace.remove(staging)


async def test_too_little_space_is_told_before_time_is_spent(staging: Path) -> None:
    with pytest.raises(NoSpace, match=r"building image small \(it needs \d+ MiB\) in .*with space"):
        recipe.check_space(2**60, "building image small", staging.parent)


@pytest.mark.root
async def test_a_file_system_that_fills_up_is_named(staging: Path, small_tree: None) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=120k", "tmpfs", staging], check=True)
    try:
        with pytest.raises(NoSpace, match=re.escape(str(staging.parent))):
            await recipe.build(RECIPE, DEBIAN, staging, silent)
    finally:
        subprocess.run(["umount", staging], check=True)


def test_size_follows_the_content() -> None:
    small, large = (recipe.filesystem_bytes(recipe.Tree(blocks=blocks, inodes=blocks, packages={})) for blocks in (100, 1_000_000))
    assert small % (1024 * 1024) == large % (1024 * 1024) == 0
    assert small < 16 * 1024 * 1024
    assert 1.0 < large / (1_000_000 * (4096 + 256)) < 1.05
