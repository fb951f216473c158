"""Extended attributes: in the spare bytes of the inode what fits there, the rest in one block."""

from __future__ import annotations

import struct
from typing import Final

from ...model.errors import BadRequest
from ..ext4 import BLOCK_BYTES, INODE_BYTES

EXTRA_INODE_BYTES: Final = 32
IN_INODE_BYTES: Final = INODE_BYTES - 128 - EXTRA_INODE_BYTES
_MAGIC: Final = 0xEA020000
_ENTRY: Final = struct.Struct("<BBHIII")
_BLOCK_HEADER: Final = struct.Struct("<IIIII12x")
_PREFIXES: Final = ((b"user.", 1), (b"trusted.", 4), (b"security.", 6), (b"system.", 7))
_WHOLE: Final = {b"system.posix_acl_access": 2, b"system.posix_acl_default": 3}
_ACL_VERSION, _ACL_DISK_VERSION = 2, 1
_ACL_WITH_ID: Final = (0x02, 0x08)
"""ACL_USER and ACL_GROUP; the other entries have no id on the disk."""

_MAX_NAME: Final = 255
"""Prefix included (linux/limits.h)."""

_Encoded = tuple[int, bytes, bytes]
"""Index of the prefix, rest of the name, value as on the disk."""


def is_known(name: bytes) -> bool:
    """Whether ext4 has a place for an attribute of this name."""
    return name in _WHOLE or (not name.startswith(b"system.") and any(name.startswith(prefix) and len(name) > len(prefix) for prefix, _ in _PREFIXES))


def encode(xattrs: tuple[tuple[bytes, bytes], ...]) -> tuple[bytes, bytes]:
    """The end of the inode, and the content of the block beside it (b"" = none is needed). Raises BadRequest when there is no room for all."""
    if not xattrs:
        return b"", b""
    entries = sorted((_split(name, value) for name, value in xattrs), key=lambda entry: (entry[0], len(entry[1]), entry[1]))
    inside: list[_Encoded] = []
    outside: list[_Encoded] = []
    for entry in entries:
        (inside if _taken([*inside, entry]) <= IN_INODE_BYTES - 4 else outside).append(entry)
    if _taken(outside) > BLOCK_BYTES - _BLOCK_HEADER.size:
        raise BadRequest(f"extended attributes of {_taken(entries)} bytes do not fit: ext4 has room for {BLOCK_BYTES} per file")
    return _in_inode(inside), _in_block(outside)


def _split(name: bytes, value: bytes) -> _Encoded:
    """Raises BadRequest for a name that ext4 has no place for."""
    if name in _WHOLE:
        return _WHOLE[name], b"", _acl(value)
    for prefix, index in _PREFIXES:
        if name.startswith(prefix) and len(name) <= _MAX_NAME:
            return index, name[len(prefix) :], value
    raise BadRequest(f"ext4 has no place for an extended attribute named {name!r}")


def _acl(value: bytes) -> bytes:
    """An ACL as on the disk (ext4's acl.c); raises BadRequest when it is none (linux/posix_acl_xattr.h)."""
    if len(value) % 8 != 4 or int.from_bytes(value[:4], "little") != _ACL_VERSION:
        raise BadRequest("an access control list is malformed")
    entries = [_ACL_DISK_VERSION.to_bytes(4, "little")]
    for at in range(4, len(value), 8):
        tag = int.from_bytes(value[at : at + 2], "little")
        entries.append(value[at : at + (8 if tag in _ACL_WITH_ID else 4)])
    return b"".join(entries)


def _taken(entries: list[_Encoded]) -> int:
    return sum(_ENTRY.size + _padded(len(name)) + _padded(len(value)) for _, name, value in entries) + 4 if entries else 0


def _padded(size: int) -> int:
    return (size + 3) & ~3


def _in_inode(entries: list[_Encoded]) -> bytes:
    if not entries:
        return b""
    table, values, _ = _table(entries, IN_INODE_BYTES - 4, hashed=False)
    return _MAGIC.to_bytes(4, "little") + table.ljust(IN_INODE_BYTES - 4 - len(values), b"\0") + values


def _in_block(entries: list[_Encoded]) -> bytes:
    if not entries:
        return b""
    table, values, hashes = _table(entries, BLOCK_BYTES, hashed=True)
    combined = 0
    for entry_hash in hashes:
        combined = (_rotated(combined, 16) ^ entry_hash) & 0xFFFFFFFF
    head = _BLOCK_HEADER.pack(_MAGIC, 1, 1, combined, 0) + table
    return head.ljust(BLOCK_BYTES - len(values), b"\0") + values


def _table(entries: list[_Encoded], end: int, *, hashed: bool) -> tuple[bytes, bytes, list[int]]:
    """The entries, the values that go to the end of the room, and the entries' hashes."""
    table, values, hashes = b"", b"", []
    for index, name, value in entries:
        values = value.ljust(_padded(len(value)), b"\0") + values
        hashes.append(_hash(name, value) if hashed else 0)
        table += _ENTRY.pack(len(name), index, end - len(values) if value else 0, 0, len(value), hashes[-1]) + name.ljust(_padded(len(name)), b"\0")
    return table, values, hashes


def _hash(name: bytes, value: bytes) -> int:
    found = 0
    for byte in name:
        # Signed, as on x86 before Linux 6.2; newer kernels and e2fsck take both.
        found = (_rotated(found, 5) ^ (byte - 256 if byte > 127 else byte)) & 0xFFFFFFFF
    padded = value.ljust(_padded(len(value)), b"\0")
    for at in range(0, len(padded), 4):
        found = _rotated(found, 16) ^ int.from_bytes(padded[at : at + 4], "little")
    return found


def _rotated(word: int, bits: int) -> int:
    return ((word << bits) | (word >> (32 - bits))) & 0xFFFFFFFF
