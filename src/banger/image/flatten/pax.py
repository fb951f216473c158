"""Extended headers: POSIX.1-2017, pax, "pax Extended Header"; extended attributes as star (SCHILY) and libarchive write them."""

from __future__ import annotations

import binascii
import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote_to_bytes

from .limits import BadArchive, shown

_SCHILY: Final = b"SCHILY.xattr."
_LIBARCHIVE: Final = b"LIBARCHIVE.xattr."
_TIME: Final = re.compile(rb"(-?)([0-9]{1,20})(?:\.([0-9]{0,40}))?")
_NUMBER: Final = re.compile(rb"[0-9]{1,19}")
_LENGTH: Final = re.compile(rb"([0-9]{1,8}) ")
_NAMES: Final = (b"path", b"linkpath", b"GNU.sparse.name")

Records = Mapping[bytes, bytes]


def parse_records(untrusted_block: bytes) -> tuple[dict[bytes, bytes], list[tuple[bytes, bytes]]]:
    """The records as a mapping (last wins), and the pieces of an old sparse map, which repeat their names. Raises BadArchive."""
    records: dict[bytes, bytes] = {}
    repeated: list[tuple[bytes, bytes]] = []
    at = 0
    while at < len(untrusted_block):
        match = _LENGTH.match(untrusted_block, at, at + 9)
        end = at + int(match[1]) if match else 0
        if match is None or not match.end() < end <= len(untrusted_block) or untrusted_block[end - 1] != 0x0A:
            raise BadArchive("the archive is damaged: a record of an extended header is malformed")
        key, equals, value = untrusted_block[match.end() : end - 1].partition(b"=")
        if not key or not equals or b"\0" in key or (key in _NAMES and b"\0" in value):
            raise BadArchive("the archive is damaged: a record of an extended header is malformed")
        if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
            repeated.append((key, value))
        else:
            records[key] = value
        at = end
    return records, repeated


def number_of(records: Records, key: bytes, otherwise: int) -> int:
    """A decimal number, or ``otherwise`` when there is none. Raises BadArchive."""
    value = records.get(key, b"")
    if not value:
        return otherwise
    if not _NUMBER.fullmatch(value):
        raise BadArchive(f"the archive is damaged: {shown(key)} is {shown(value)} in an extended header")
    return int(value)


def time_of(records: Records, otherwise: int) -> int:
    """``mtime`` in nanoseconds, or ``otherwise`` when there is none. Raises BadArchive."""
    value = records.get(b"mtime", b"")
    if not value:
        return otherwise
    match = _TIME.fullmatch(value)
    if match is None:
        raise BadArchive(f"the archive is damaged: {shown(value)} in an extended header is not a time")
    nanoseconds = int(match[2]) * 1_000_000_000 + int((match[3] or b"0")[:9].ljust(9, b"0"))
    return -nanoseconds if match[1] else nanoseconds


def xattrs_of(records: Records) -> tuple[tuple[bytes, bytes], ...]:
    """The extended attributes, by name. Raises BadArchive."""
    found: dict[bytes, bytes] = {}
    for key, value in records.items():
        if key.startswith(_LIBARCHIVE):
            found.setdefault(unquote_to_bytes(key[len(_LIBARCHIVE) :]), _base64(value))
    for key, value in records.items():
        if key.startswith(_SCHILY):
            found[key[len(_SCHILY) :]] = value
    return tuple(sorted(found.items()))


def _base64(value: bytes) -> bytes:
    try:
        return binascii.a2b_base64(value + b"=" * (-len(value) % 4))
    except ValueError:
        raise BadArchive("the archive is damaged: an extended attribute is not base64") from None
