"""The default image: built for real from Debian's packages, once, all or nothing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import oracle
from tests.e2e.conftest import Built, builders, on_disk
from tests.e2e.instance import IMAGE, Done, Instance, wait_until
from tests.e2e.terminal import on_terminal

KERNEL = "debian-cloud"


@pytest.mark.timeout(420)
def test_two_callers_build_the_image_once(built: Built) -> None:
    if not built.pulls:
        pytest.skip("BANGER_TEST_HOME holds an image that was built before")
    assert [pull.status for pull in built.pulls] == [0, 0], [pull.err for pull in built.pulls]
    assert built.builders_seen == 1
    assert len(built.instance.rows("images")) == 1
    assert len(built.instance.rows("kernels")) == 1


def test_pulling_again_is_success_and_quick(instance: Instance) -> None:
    before = instance.json("image", "show", IMAGE)
    instance.ok("image", "pull", IMAGE, timeout=20)
    assert instance.json("image", "show", IMAGE)["id"] == before["id"]


def test_listings_name_image_and_kernel(instance: Instance) -> None:
    assert [image["name"] for image in instance.json("image", "list")] == [IMAGE]
    assert IMAGE in instance.ok("image", "list")
    kernel = instance.json("kernel", "show", KERNEL)
    assert kernel["version"].endswith("-cloud-amd64")
    assert [found["name"] for found in instance.json("kernel", "list")] == [KERNEL]


def test_stored_files_are_complete(instance: Instance) -> None:
    image = instance.json("image", "show", IMAGE)
    kernel = instance.json("kernel", "show", KERNEL)
    assert Path(image["path"], "rootfs.ext4").stat().st_size == image["size_bytes"]
    assert Path(kernel["path"], "vmlinux").read_bytes()[:4] == b"\x7fELF"
    assert Path(kernel["path"], "modules/modules.dep").stat().st_size > 1000


def test_file_system_is_clean(instance: Instance) -> None:
    image = instance.json("image", "show", IMAGE)
    done = subprocess.run(["/sbin/e2fsck", "-fn", Path(image["path"], "rootfs.ext4")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_an_image_in_use_is_not_deleted(instance: Instance) -> None:
    instance.ok("vm", "create", "--no-start", "--name", "uses-image")
    try:
        done = instance.run("image", "delete", IMAGE)
        assert done.status == 2
        assert "in use" in done.err
        assert Path(instance.json("image", "show", IMAGE)["path"], "rootfs.ext4").exists()
    finally:
        instance.ok("vm", "delete", "uses-image")


def half_made(instance: Instance) -> list[str]:
    """What an interrupted build could leave: rows of images, directories that no row names, staging, processes. A kernel that was finished stays."""
    rows = instance.rows("images")
    whole = {row["id"] for row in instance.rows("kernels")}
    stored = [str(path) for kind in ("images", "kernels") for path in instance.state.glob(f"{kind}/*") if path.is_dir() and path.name not in whole]
    return [*map(str, rows), *stored, *oracle.files(instance), *oracle.processes(instance)]


@pytest.mark.timeout(120)
def test_control_c_ends_the_build_and_leaves_nothing(fresh: Instance) -> None:
    with on_terminal(fresh, "image", "pull", IMAGE) as terminal:
        wait_until(lambda: unpacking(fresh), "mmdebstrap unpacks", 90)
        terminal.type("\x03")
        assert terminal.wait(30) not in (0, None)
        assert "Traceback" not in terminal.seen
    wait_until(lambda: not half_made(fresh), f"nothing is left of the build: {half_made(fresh)}", 30)


@pytest.mark.timeout(120)
def test_leftovers_of_a_killed_daemon_are_removed_by_the_next(fresh: Instance) -> None:
    with fresh.started("image", "pull", IMAGE) as pull:
        wait_until(lambda: unpacking(fresh), "mmdebstrap unpacks", 90)
        daemon = fresh.daemon_pid()
        assert daemon is not None
        os.kill(daemon, 9)
        pull.communicate(timeout=30)
        assert pull.returncode == 1
    wait_until(lambda: not builders(fresh), "the orphaned build has ended", 90)
    fresh.ok("image", "list")
    wait_until(lambda: not half_made(fresh), f"nothing is left of the build: {half_made(fresh)}", 30)


def unpacking(instance: Instance) -> bool:
    """Whether the build has got so far that there is much to clean up."""
    return any(instance.state.glob("images/*.staging/tree/usr/bin/*"))


needs_loop_device = pytest.mark.skipif(os.getuid() != 0, reason="mounting a loop device needs root")


@pytest.fixture
def small_disk(request: pytest.FixtureRequest) -> Iterator[Instance]:
    """An instance on a file system of its own, of so many MiB."""
    place = on_disk("banger-small-")
    backing, mounted = place / "disk.ext4", place / "mounted"
    mounted.mkdir()
    subprocess.run(["/sbin/mke2fs", "-q", "-t", "ext4", backing, f"{request.param}M"], check=True)
    subprocess.run(["mount", "-o", "loop", backing, mounted], check=True)
    instance = Instance(mounted / "home")
    try:
        yield instance
    finally:
        instance.delete_everything()
        subprocess.run(["umount", mounted], check=True)
        shutil.rmtree(place)


def check_no_space(instance: Instance, done: Done) -> None:
    assert done.status == 1
    assert "no space left" in done.err.lower()
    assert re.search(r"\bop-[0-9a-f]{12}\b", done.err)
    assert "Traceback" not in done.err
    assert half_made(instance) == []


@pytest.mark.root
@needs_loop_device
@pytest.mark.parametrize("small_disk", [160], indirect=True)
def test_a_disk_that_is_too_small_is_told_at_once(small_disk: Instance) -> None:
    check_no_space(small_disk, small_disk.run("image", "pull", IMAGE))


@pytest.mark.root
@needs_loop_device
@pytest.mark.timeout(200)
@pytest.mark.parametrize("small_disk", [4096], indirect=True)
def test_a_disk_that_fills_during_the_build(small_disk: Instance) -> None:
    with small_disk.started("image", "pull", IMAGE) as pull:
        wait_until(lambda: unpacking(small_disk), "mmdebstrap unpacks", 90)
        filler = small_disk.home.parent / "filler"
        free = shutil.disk_usage(small_disk.home).free
        subprocess.run(["fallocate", "--length", str(free - 30 * 1024 * 1024), filler], check=True)
        out, err = pull.communicate(timeout=150)
    filler.unlink()
    check_no_space(small_disk, Done(pull.returncode, out, err.decode()))
