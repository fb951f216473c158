"""Taking the ELF kernel out of a bzImage."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from banger.image.bzimage import check_elf, extract_vmlinux
from banger.model.errors import BadRequest, CommandFailed

from .bzimages import OFFSET, SETUP_SECTORS, bzimage, compress, elf


@pytest.mark.parametrize("how", ["gzip", "xz", "bzip2", "zstd", "lz4"])
async def test_every_compression_gives_the_kernel(tmp_path: Path, how: str) -> None:
    kernel = elf()
    (tmp_path / "vmlinuz").write_bytes(bzimage(compress(kernel, how)))
    await extract_vmlinux(tmp_path / "vmlinuz", tmp_path / "vmlinux")
    assert (tmp_path / "vmlinux").read_bytes() == kernel
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_file()) == ["vmlinux", "vmlinuz"]


def damaged(change: str) -> bytes:
    payload = compress(elf(), "gzip")
    image = bytearray(bzimage(payload))
    if change == "magic":
        image[0x202] = 0
    elif change == "old protocol":
        struct.pack_into("<H", image, 0x206, 0x0202)
    elif change == "cut":
        del image[2000:]
    elif change == "empty":
        image.clear()
    elif change == "huge length":
        struct.pack_into("<I", image, 0x24C, 0xFFFFFFFF)
    elif change == "tiny length":
        struct.pack_into("<I", image, 0x24C, 3)
    elif change == "garbage":
        image[(SETUP_SECTORS + 1) * 512 + OFFSET + 1000] ^= 0xFF
    elif change == "unknown compression":
        image[(SETUP_SECTORS + 1) * 512 + OFFSET] = 0
    return bytes(image)


@pytest.mark.parametrize("change", ["magic", "old protocol", "cut", "empty", "huge length", "tiny length", "garbage", "unknown compression"])
async def test_damage_is_refused(tmp_path: Path, change: str) -> None:
    (tmp_path / "vmlinuz").write_bytes(damaged(change))
    with pytest.raises(BadRequest, match="vmlinuz"):
        await extract_vmlinux(tmp_path / "vmlinuz", tmp_path / "vmlinux")


async def test_a_payload_that_is_larger_than_it_says_is_cut_off(tmp_path: Path) -> None:
    payload = compress(elf(50_000_000), "xz")[:-4] + struct.pack("<I", 1000)
    (tmp_path / "vmlinuz").write_bytes(bzimage(payload))
    with pytest.raises(BadRequest, match="damaged"):
        await extract_vmlinux(tmp_path / "vmlinuz", tmp_path / "vmlinux")
    assert (tmp_path / "vmlinux").stat().st_size < 60_000_000


async def test_a_kernel_for_another_machine_is_refused(tmp_path: Path) -> None:
    kernel = bytearray(elf())
    struct.pack_into("<H", kernel, 18, 183)  # AArch64
    (tmp_path / "vmlinuz").write_bytes(bzimage(compress(bytes(kernel), "gzip")))
    with pytest.raises(BadRequest, match="not an ELF kernel for x86-64"):
        await extract_vmlinux(tmp_path / "vmlinuz", tmp_path / "vmlinux")


@settings(max_examples=60, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(at=st.integers(0, 2600), value=st.binary(min_size=1, max_size=8))
async def test_no_bytes_give_more_than_a_clear_error(tmp_path: Path, at: int, value: bytes) -> None:
    image = bytearray(bzimage(compress(elf(2000), "gzip")))
    image[at : at + len(value)] = value
    (tmp_path / "vmlinuz").write_bytes(image)
    (tmp_path / "vmlinux").unlink(missing_ok=True)
    try:
        await extract_vmlinux(tmp_path / "vmlinuz", tmp_path / "vmlinux")
    except (BadRequest, CommandFailed):
        return
    check_elf(tmp_path / "vmlinux")
