"""bzImages to test with."""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
import subprocess

SETUP_SECTORS = 3
OFFSET = 64


def elf(size: int = 300_000) -> bytes:
    """Something that begins like an x86-64 kernel."""
    head = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HH", 2, 62)
    return head + bytes(range(256)) * ((size - len(head)) // 256 + 1)


def compress(kernel: bytes, how: str) -> bytes:
    """The payload that the kernel's build makes of ``kernel``."""
    size = struct.pack("<I", len(kernel))
    if how == "gzip":
        return gzip.compress(kernel)
    if how == "xz":
        return lzma.compress(kernel, check=lzma.CHECK_CRC32) + size
    if how == "bzip2":
        return bz2.compress(kernel) + size
    if how == "zstd":
        from banger.host.zstd import compress

        return compress(kernel) + size
    return subprocess.run(["lz4", "-l", "-q", "-c"], input=kernel, capture_output=True, check=True).stdout + size


def bzimage(payload: bytes) -> bytes:
    """A bzImage around ``payload``."""
    header = bytearray((SETUP_SECTORS + 1) * 512)
    header[0x1F1] = SETUP_SECTORS
    header[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", header, 0x206, 0x020F)
    struct.pack_into("<II", header, 0x248, OFFSET, len(payload))
    return bytes(header) + bytes(OFFSET) + payload + bytes(100)
