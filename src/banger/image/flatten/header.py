"""Tar headers: the fixed 512 bytes. POSIX.1-2017, pax, "ustar Interchange Format"; GNU tar manual, "Basic Tar Format"."""

from __future__ import annotations

import struct
import zlib
from typing import Final, NamedTuple

from .limits import BadArchive

BLOCK: Final = 512
ZEROS: Final = bytes(BLOCK)
_FIELDS: Final = struct.Struct("100s8s8s8s12s12s8ss100s8s64x8s8s155s12x")
_CHECKSUM: Final = slice(148, 156)
_BEFORE: Final = slice(0, 148)
_BEHIND: Final = slice(156, 512)
_ADLER: Final = 65521
_LARGEST: Final = 1 << 63


class Header(NamedTuple):
    """The fields of one header, decoded."""

    name: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    type: bytes
    link: bytes
    device: tuple[int, int]


def parse_header(untrusted_block: bytes) -> Header:
    """Decode a header. Raises BadArchive when it is none."""
    name, mode, uid, gid, size, mtime, checksum, kind, link, magic, major, minor, prefix = _FIELDS.unpack(untrusted_block)
    if not _is_sum(checksum, untrusted_block):
        raise BadArchive("this is not a tar archive, or it is damaged: the checksum of a header is wrong")
    name = _text(name)
    if prefix[0] and magic.startswith(b"ustar\0"):
        # star keeps two times in the end of the prefix.
        name = _text(prefix[:131] if untrusted_block.endswith(b"tar\0") else prefix) + b"/" + name
    device = (number(major), number(minor)) if kind in b"34" else (0, 0)
    return Header(name, number(mode), number(uid), number(gid), number(size), _signed(mtime), kind, _text(link), device)


def number(field: bytes) -> int:
    """A number of 0 or more, octal or base-256. Raises BadArchive for anything else."""
    text = field.strip(b" \0")
    if text.isdigit():
        try:
            return int(text, 8)
        except ValueError:
            raise _bad_number(field) from None
    value = _odd_number(field, text)
    if value < 0:
        raise _bad_number(field)
    return value


def _signed(field: bytes) -> int:
    """A time; only base-256 can be negative."""
    text = field.strip(b" \0")
    return number(field) if text.isdigit() else _odd_number(field, text)


def _odd_number(field: bytes, text: bytes) -> int:
    if field[0] & 0x80:
        # The sign is the second bit; two's complement from there on.
        value = int.from_bytes(field, "big") - (1 << 8 * len(field) - 1)
        value -= (1 << 8 * len(field) - 1) if field[0] & 0x40 else 0
        if -_LARGEST <= value < _LARGEST:
            return value
    else:
        # Nothing at all is 0; what stands behind a NUL is rubbish that some programs leave there.
        digits = text.partition(b"\0")[0].rstrip(b" ")
        if not text or (digits.isdigit() and not digits.translate(None, b"01234567")):
            return int(digits or b"0", 8)
    raise _bad_number(field)


def _bad_number(field: bytes) -> BadArchive:
    return BadArchive(f"the archive is damaged: {field!r} in a header is not a number")


def _text(field: bytes) -> bytes:
    end = field.find(b"\0")
    return field if end < 0 else field[:end]


def _is_sum(checksum: bytes, block: bytes) -> bool:
    """Whether the checksum is the sum of the bytes, its own counting as spaces; some old programs added signed characters."""
    digits = checksum.strip(b" \0")
    if not digits.isdigit() or digits.translate(None, b"01234567"):
        return False
    # Adler-32's lower half is one more than the sum of the bytes, modulo a prime: a hundred times faster than adding them up here.
    total = zlib.adler32(block[_BEHIND], zlib.adler32(block[_BEFORE])) & 0xFFFF
    wrong = int(digits, 8) - total - 8 * 32 + 1
    return not wrong % _ADLER or not (wrong + 256 * sum(byte > 127 for byte in block[_BEFORE] + block[_BEHIND])) % _ADLER
