"""Modules in load order, and the archive they go into."""

from __future__ import annotations

import gzip
import lzma
import os
import stat
import threading
from pathlib import Path

import pytest

from banger.guest import newc
from banger.guest.initramfs import build_initramfs
from banger.guest.modules import resolve
from banger.guest.program import guest_program
from banger.model.errors import BadRequest, MissingTool

DEPENDENCIES = """\
kernel/drivers/virtio/virtio.ko:
kernel/drivers/virtio/virtio_ring.ko: kernel/drivers/virtio/virtio.ko
kernel/drivers/virtio/virtio_mmio.ko: kernel/drivers/virtio/virtio_ring.ko kernel/drivers/virtio/virtio.ko
kernel/drivers/block/virtio_blk.ko: kernel/drivers/virtio/virtio.ko kernel/drivers/virtio/virtio_ring.ko
kernel/drivers/char/virtio_console.ko: kernel/drivers/virtio/virtio_ring.ko kernel/drivers/virtio/virtio.ko
kernel/drivers/char/hw_random/virtio-rng.ko: kernel/drivers/virtio/virtio_ring.ko kernel/drivers/virtio/virtio.ko
kernel/fs/overlayfs/overlay.ko:
kernel/drivers/net/unwanted.ko: kernel/drivers/virtio/virtio.ko
"""
ORDER = ["virtio", "virtio_ring", "virtio_mmio", "virtio_console", "virtio_blk", "overlay", "virtio_rng"]


def make_kernel(root: Path, dependencies: str = DEPENDENCIES, builtin: str = "kernel/fs/ext4/ext4.ko\n") -> Path:
    """A kernel directory with small files for modules."""
    tree = root / "modules"
    for line in dependencies.splitlines():
        file = tree / line.partition(":")[0]
        file.parent.mkdir(parents=True, exist_ok=True)
        content = b"\x7fELF " + file.name.partition(".")[0].encode()
        file.write_bytes(lzma.compress(content) if file.suffix == ".xz" else gzip.compress(content) if file.suffix == ".gz" else content)
    (tree / "modules.dep").write_text(dependencies)
    (tree / "modules.builtin").write_text(builtin)
    return root


@pytest.fixture
def kernel(tmp_path: Path) -> Path:
    return make_kernel(tmp_path / "kernel")


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "banger-guest"
    path.write_bytes(b"\x7fELF program")
    return path


def unpack(archive: bytes) -> dict[str, tuple[int, bytes, tuple[int, int]]]:
    """Path -> mode, content, device; a reader of the format that shares nothing with the writer."""
    members: dict[str, tuple[int, bytes, tuple[int, int]]] = {}
    position = 0
    while True:
        assert archive[position : position + 6] == b"070701"
        numbers = [int(archive[position + 6 + 8 * i : position + 14 + 8 * i], 16) for i in range(13)]
        _, mode, uid, gid, _, mtime, size, _, _, major, minor, name_size, check = numbers
        assert (uid, gid, mtime, check) == (0, 0, 0, 0)
        name_at = position + 110
        name = archive[name_at : name_at + name_size - 1].decode()
        assert archive[name_at + name_size - 1] == 0
        content_at = (name_at + name_size + 3) & ~3
        position = (content_at + size + 3) & ~3
        if name == "TRAILER!!!":
            assert position == len(archive)
            return members
        assert name not in members
        members[name] = (mode, archive[content_at : content_at + size], (major, minor))


def test_modules_come_after_what_they_need_and_builtin_ones_not_at_all(kernel: Path) -> None:
    assert [module.name for module in resolve(kernel / "modules")] == ORDER


def test_a_kernel_with_everything_built_in_needs_no_modules(tmp_path: Path) -> None:
    builtin = "".join(f"kernel/x/{name}.ko\n" for name in ("ext4", "virtio_mmio", "virtio_blk", "virtio_console", "overlay"))
    assert resolve(make_kernel(tmp_path / "k", "kernel/a.ko:\n", builtin) / "modules") == ()


def test_a_missing_driver_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="ext4"):
        resolve(make_kernel(tmp_path / "k", builtin="") / "modules")


@pytest.mark.parametrize(
    "line", ["../../etc/passwd.ko:", "/etc/x.ko:", "kernel/readme.txt:", "kernel/fs/overlayfs/overlay.ko: ../evil.ko", "kernel/fs/overlayfs/overlay.ko: no.ko"]
)
def test_a_list_that_leads_astray_is_refused(tmp_path: Path, line: str) -> None:
    kernel = make_kernel(tmp_path / "k")
    (kernel / "modules/modules.dep").write_text(DEPENDENCIES + line + "\n")
    with pytest.raises(BadRequest):
        resolve(kernel / "modules")


def test_no_list_at_all(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match=r"modules\.dep"):
        resolve(tmp_path)


def test_compressed_modules_come_out_plain(tmp_path: Path, program: Path) -> None:
    compressed = DEPENDENCIES.replace("overlay.ko", "overlay.ko.xz").replace("virtio_blk.ko", "virtio_blk.ko.gz")
    kernel = make_kernel(tmp_path / "k", compressed)
    members = unpack(build_initramfs(kernel, program, tmp_path / "cache").read_bytes())
    assert members["lib/modules/overlay.ko"][1] == b"\x7fELF overlay"
    assert members["lib/modules/virtio_blk.ko"][1] == b"\x7fELF virtio_blk"
    (kernel / "modules/kernel/fs/overlayfs/overlay.ko.xz").write_bytes(b"not xz")
    with pytest.raises(BadRequest, match=r"overlay\.ko\.xz"):
        build_initramfs(kernel, program, tmp_path / "cache")


def test_zstd_modules_come_out_plain(tmp_path: Path, program: Path) -> None:
    zstd = pytest.importorskip("backports.zstd")
    kernel = make_kernel(tmp_path / "k", DEPENDENCIES.replace("overlay.ko", "overlay.ko.zst"))
    (kernel / "modules/kernel/fs/overlayfs/overlay.ko.zst").write_bytes(zstd.compress(b"plain"))
    assert unpack(build_initramfs(kernel, program, tmp_path / "cache").read_bytes())["lib/modules/overlay.ko"][1] == b"plain"


def test_the_archive_holds_what_the_guest_program_expects(kernel: Path, program: Path, tmp_path: Path) -> None:
    members = unpack(build_initramfs(kernel, program, tmp_path / "cache").read_bytes())
    assert members["init"][:2] == (stat.S_IFREG | 0o755, b"\x7fELF program")
    assert members["dev/console"] == (stat.S_IFCHR | 0o600, b"", (5, 1))
    listed = members["modules"][1].decode().splitlines()
    assert listed == [f"/lib/modules/{name}.ko" for name in ORDER]
    assert all(members[path.lstrip("/")][1].startswith(b"\x7fELF") for path in listed)
    seen: set[str] = set()
    for path, (mode, _, _) in members.items():
        assert "/" not in path or path.rpartition("/")[0] in seen
        if stat.S_ISDIR(mode):
            seen.add(path)
    assert {"proc", "sys", "dev", "run", "newroot"} <= seen


def test_same_input_same_bytes_and_another_name_for_other_input(kernel: Path, program: Path, tmp_path: Path) -> None:
    first = build_initramfs(kernel, program, tmp_path / "one")
    second = build_initramfs(make_kernel(tmp_path / "copy"), program, tmp_path / "two")
    assert (first.name, first.read_bytes()) == (second.name, second.read_bytes())
    program.write_bytes(b"\x7fELF newer program")
    third = build_initramfs(kernel, program, tmp_path / "one")
    assert third != first
    (kernel / "modules/kernel/fs/overlayfs/overlay.ko").write_bytes(b"\x7fELF newer")
    assert build_initramfs(kernel, program, tmp_path / "one") not in (first, third)


def test_a_hit_is_not_rebuilt(kernel: Path, program: Path, tmp_path: Path) -> None:
    path = build_initramfs(kernel, program, tmp_path / "cache")
    path.write_bytes(b"as it was")
    assert build_initramfs(kernel, program, tmp_path / "cache").read_bytes() == b"as it was"


def test_many_builders_at_once(kernel: Path, program: Path, tmp_path: Path) -> None:
    built: list[bytes] = []
    threads = [threading.Thread(target=lambda: built.append(build_initramfs(kernel, program, tmp_path / "cache").read_bytes())) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 16
    assert len(set(built)) == 1
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_old_entries_and_leftovers_go(kernel: Path, program: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    for age in range(1, 10):
        os.utime(_touch(cache / f"{age}.cpio"), (age * 1000, age * 1000))
    os.utime(_touch(cache / "x.cpio.1234.staging"), (1000, 1000))
    _touch(cache / "y.cpio.5678.staging")
    _touch(cache / "fresh.cpio")
    built = build_initramfs(kernel, program, cache)
    assert {path.name for path in cache.iterdir()} == {built.name, "fresh.cpio", "y.cpio.5678.staging", "9.cpio", "8.cpio"}


def _touch(path: Path) -> Path:
    path.touch()
    return path


def test_members_are_padded_whatever_their_size() -> None:
    entries = [newc.directory("d")] + [newc.regular(f"d/{'n' * size}", b"c" * size) for size in range(1, 9)]
    assert [content for _, content, _ in unpack(newc.archive(entries)).values()][1:] == [b"c" * size for size in range(1, 9)]


def test_a_package_without_the_program_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("banger.guest.program.__file__", str(tmp_path / "program.py"))
    with pytest.raises(MissingTool, match="guest program"):
        guest_program()
    (tmp_path / "program").mkdir()
    (tmp_path / "program/banger-guest").write_bytes(b"x")
    assert guest_program() == tmp_path / "program/banger-guest"
