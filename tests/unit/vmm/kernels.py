"""A kernel small enough for unit tests: a PVH ELF of a few bytes that writes a line to the serial port and halts."""

from __future__ import annotations

import struct
from pathlib import Path

SAYS = b"tiny kernel\n"
_LOAD = 0x100000
_NOTE_PHYS32_ENTRY = 18  # Xen's public/elfnote.h


def tiny_kernel(path: Path) -> Path:
    """Write the kernel to ``path``, readable by everybody as a real one is."""
    path.write_bytes(_elf(_code()))
    path.chmod(0o644)
    return path


def _code() -> bytes:
    out = b"\xba\xf8\x03\x00\x00"  # mov edx, 0x3f8
    for byte in SAYS:
        out += b"\xb0" + bytes([byte]) + b"\xee"  # mov al, byte; out dx, al
    return out + b"\xfa\xf4\xeb\xfd"  # cli; hlt; jmp to hlt


def _elf(code: bytes) -> bytes:
    note = struct.pack("<III4sI", 4, 4, _NOTE_PHYS32_ENTRY, b"Xen\0", _LOAD)
    offset = 64 + 2 * 56
    header = struct.pack("<4sBBBB8xHHIQQQIHHHHHH", b"\x7fELF", 2, 1, 1, 0, 2, 62, 1, _LOAD, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    load = struct.pack("<IIQQQQQQ", 1, 7, offset, _LOAD, _LOAD, len(code), len(code), 16)
    notes = struct.pack("<IIQQQQQQ", 4, 4, offset + len(code), 0, 0, len(note), len(note), 4)
    return header + load + notes + code + note
