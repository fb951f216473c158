"""Taking a kernel from files: real depmod and lz4, links not followed, refusals that leave a reason."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from banger.guest.modules import resolve
from banger.image.kernel_files import KernelFiles, find, gather
from banger.model.errors import BadRequest

from .bzimages import bzimage, compress
from .made_kernels import VERSION, config, kernel_directory, modules, vmlinux


@pytest.fixture
def staging(tmp_path: Path) -> Path:
    path = tmp_path / "staging"
    path.mkdir()
    return path


async def test_a_directory_as_our_own_bundles_have_it(tmp_path: Path, staging: Path) -> None:
    declared = await gather(find(kernel_directory(tmp_path / "k")), staging)
    assert (declared.version, declared.virtio) == (VERSION, "modules")
    assert sorted(path.name for path in staging.iterdir()) == ["config", "modules", "vmlinux"]
    assert (staging / "vmlinux").read_bytes() == vmlinux()
    assert [module.name for module in resolve(staging / "modules")] == ["virtio_mmio", "virtio_console", "virtio_blk", "overlay", "ext4"]


async def test_a_distributions_package_whose_modules_have_no_list_yet(tmp_path: Path, staging: Path) -> None:
    root = tmp_path / "pkg"
    (root / "boot").mkdir(parents=True)
    (root / "boot" / f"vmlinuz-{VERSION}").write_bytes(bzimage(compress(vmlinux(), "lz4")))
    (root / "boot" / f"config-{VERSION}").write_text(config("y", OVERLAY_FS="m"))
    tree = root / "lib" / "modules" / VERSION
    (tree / "kernel").mkdir(parents=True)
    (tree / "modules.builtin").write_text("kernel/fs/ext4/ext4.ko\n")
    (tree / "build").symlink_to("/usr/src")
    with pytest.raises(BadRequest, match=r"overlay\.ko is not among its modules"):
        await gather(find(root), staging)


async def test_a_kernel_with_everything_built_in_needs_no_modules(tmp_path: Path, staging: Path) -> None:
    declared = await gather(find(kernel_directory(tmp_path / "k", drivers="y")), staging)
    assert declared.virtio == "built in"
    assert resolve(staging / "modules") == ()


async def test_links_are_left_out_and_nothing_outside_is_taken(tmp_path: Path, staging: Path) -> None:
    directory = kernel_directory(tmp_path / "k")
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key").write_text("secret")
    (directory / "modules" / "source").symlink_to(tmp_path / "secret")
    (directory / "modules" / "kernel" / "key.ko").symlink_to(tmp_path / "secret" / "key")
    os.mkfifo(directory / "modules" / "pipe")
    await gather(find(directory), staging)
    names = {path.name for path in (staging / "modules").rglob("*")}
    assert not names & {"source", "key", "key.ko", "pipe"}


@pytest.mark.parametrize("broken", ["vmlinux", "config"])
async def test_files_that_are_not_what_they_are_called(tmp_path: Path, staging: Path, broken: str) -> None:
    directory = kernel_directory(tmp_path / "k")
    (directory / broken).write_bytes(b"hello")
    with pytest.raises(BadRequest):
        await gather(find(directory), staging)


async def test_paths_that_are_no_files(tmp_path: Path, staging: Path) -> None:
    with pytest.raises(BadRequest, match="cannot be read"):
        await gather(KernelFiles(vmlinux=tmp_path / "none"), staging)
    with pytest.raises(BadRequest, match="is not a file"):
        await gather(KernelFiles(vmlinux=tmp_path), staging)


def test_directories_without_one_kernel(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="is not a directory"):
        find(tmp_path / "none")
    with pytest.raises(BadRequest, match="there is no kernel"):
        find(tmp_path)
    for name in ("vmlinuz-1", "vmlinuz-2"):
        (tmp_path / name).touch()
    with pytest.raises(BadRequest, match="more than one kernel: vmlinuz-1, vmlinuz-2"):
        find(tmp_path)
    (tmp_path / "vmlinux").touch()
    modules(tmp_path / "lib" / "modules" / "1")
    assert find(tmp_path) == KernelFiles(vmlinux=tmp_path / "vmlinux", modules=tmp_path / "lib" / "modules" / "1")
