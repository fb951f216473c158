"""The ELF kernel inside a bzImage (Documentation/arch/x86/boot.rst: the real-mode kernel header, payload_offset and payload_length)."""

from __future__ import annotations

import asyncio
import bz2
import lzma
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

from ..host.run import run
from ..model.errors import BadRequest

_IMAGE_LIMIT: Final = 256 * 1024 * 1024
_KERNEL_LIMIT: Final = 1024 * 1024 * 1024
_HEADER_BYTES: Final = 0x250
_CHUNK: Final = 1024 * 1024
_ELF_X86_64: Final = (b"\x7fELF\x02\x01\x01", 62)
"""64 bit, little-endian, version 1; EM_X86_64 (elf(5))."""


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...

    def decompress(self, data: bytes, /) -> bytes: ...


def _zstd() -> _Decompressor:
    from ..host.zstd import ZstdDecompressor  # only here: no kernel of the catalog needs it

    return ZstdDecompressor()


_LZ4_LEGACY: Final = b"\x02\x21\x4c\x18"
_FORMATS: Final[dict[bytes, Callable[[], _Decompressor]]] = {
    b"\x1f\x8b": lambda: zlib.decompressobj(31),
    b"\xfd7zXZ\0": lzma.LZMADecompressor,
    b"\x28\xb5\x2f\xfd": _zstd,
    b"BZh": bz2.BZ2Decompressor,
}


async def extract_vmlinux(image: Path, vmlinux: Path) -> None:
    """Write the ELF kernel of the bzImage ``image`` to ``vmlinux`` (a new file).

    Raises BadRequest when ``image`` is not a bzImage of an x86-64 kernel, or is damaged; MissingTool without lz4 when it is compressed so.
    """
    payload = _payload(image)
    expected = struct.unpack("<I", payload[-4:])[0]
    if expected > _KERNEL_LIMIT:
        raise BadRequest(f"{image} claims to hold a kernel of {expected} bytes")
    if payload.startswith(_LZ4_LEGACY):
        await _unpack_lz4(payload[:-4], vmlinux)
    else:
        await asyncio.to_thread(_unpack, payload, vmlinux, expected, image)
    check_elf(vmlinux)
    vmlinux.chmod(0o644)  # a VMM that runs under a uid of its own opens it
    if vmlinux.stat().st_size != expected:
        raise BadRequest(f"{image} is damaged: its kernel has {vmlinux.stat().st_size} bytes, not {expected}")


def check_elf(path: Path) -> None:
    """Raises BadRequest unless ``path`` is an ELF file for x86-64."""
    with path.open("rb") as file:
        head = file.read(20)
    if len(head) < 20 or (head[:7], struct.unpack_from("<H", head, 18)[0]) != _ELF_X86_64:
        raise BadRequest(f"{path} is not an ELF kernel for x86-64")


def _payload(image: Path) -> bytes:
    """The compressed kernel. It ends with its uncompressed size in four bytes, which the kernel's build appends unless the format has them anyway."""
    if image.stat().st_size > _IMAGE_LIMIT:
        raise BadRequest(f"{image} is larger than a kernel may be")
    untrusted_image = image.read_bytes()
    if len(untrusted_image) < _HEADER_BYTES or untrusted_image[0x202:0x206] != b"HdrS":
        raise BadRequest(f"{image} is no kernel for x86-64: neither an ELF file nor a bzImage")
    version = struct.unpack_from("<H", untrusted_image, 0x206)[0]
    if version < 0x0208:
        raise BadRequest(f"{image} has boot protocol {version >> 8}.{version & 255:02d}, too old to find the kernel in it")
    setup_sectors = untrusted_image[0x1F1] or 4
    offset, length = struct.unpack_from("<II", untrusted_image, 0x248)
    start = (setup_sectors + 1) * 512 + offset
    if length < 8 or start + length > len(untrusted_image):
        raise BadRequest(f"{image} is cut short")
    return untrusted_image[start : start + length]


async def _unpack_lz4(payload: bytes, vmlinux: Path) -> None:
    packed = vmlinux.with_suffix(".lz4")
    packed.write_bytes(payload)
    try:
        await run(["lz4", "-d", "-q", packed, vmlinux], deadline=120)
    finally:
        packed.unlink()


def _unpack(payload: bytes, vmlinux: Path, expected: int, image: Path) -> None:
    make = next((make for magic, make in _FORMATS.items() if payload.startswith(magic)), None)
    if make is None:
        raise BadRequest(f"{image} is compressed in a way that is not known here", hint="kernels with gzip, xz, zstd, bzip2 or lz4 work")
    decompressor, written, view = make(), 0, memoryview(payload)
    try:
        with vmlinux.open("xb") as out:
            for start in range(0, len(view), _CHUNK):
                if decompressor.eof:
                    break
                written += out.write(decompressor.decompress(bytes(view[start : start + _CHUNK])))
                if written > expected:
                    break
    except (zlib.error, lzma.LZMAError, ValueError, OSError) as error:
        raise BadRequest(f"{image} is damaged: {error}") from error
