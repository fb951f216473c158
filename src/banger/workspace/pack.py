"""git's pack file and its index, written without git (gitformat-pack(5), version 2 of both): whole objects, no deltas."""

from __future__ import annotations

import hashlib
import struct
import tempfile
import zlib
from collections.abc import Iterator
from typing import IO, Final

_CHUNK: Final = 1024 * 1024
_IN_MEMORY: Final = 16 * 1024 * 1024
"""A pack grows so long before it goes to a file."""
_STORE_ONLY: Final = 1024 * 1024
"""Larger objects are stored without compressing them: they leave for a socket, not for a shelf."""
_HEAD: Final = struct.Struct(">4sII")
_KINDS: Final = {"commit": 1, "tree": 2, "blob": 3}
_LARGE: Final = 1 << 31


class PackWriter:
    """Collects objects. Use it in a ``with`` statement."""

    def __init__(self, object_format: str) -> None:
        """``object_format``: ``sha1`` or ``sha256``."""
        self._format = object_format
        self._file: IO[bytes] = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115 (closed by close)
        self._places: dict[str, tuple[int, int]] = {}
        """Name of an object -> where it begins, and the CRC-32 of its bytes there."""
        self._end = self._file.write(bytes(_HEAD.size))

    @property
    def is_empty(self) -> bool:
        return not self._places

    @property
    def size(self) -> int:
        """Bytes of the pack, once ``finish`` was called."""
        return self._end

    def add(self, kind: str, content: bytes, *, known: frozenset[str] = frozenset()) -> str:
        """Keep an object unless it is ``known``; returns its name."""
        oid = hashlib.new(self._format, b"%s %d\0" % (kind.encode(), len(content)) + content, usedforsecurity=False).hexdigest()
        if oid not in known and oid not in self._places:
            stored = _object_head(_KINDS[kind], len(content)) + zlib.compress(content, 0 if len(content) > _STORE_ONLY else 1)
            self._places[oid] = (self._end, zlib.crc32(stored))
            self._end += self._file.write(stored)
        return oid

    def finish(self) -> tuple[str, bytes]:
        """Complete the pack; its name (without ``pack-`` and suffix) and the content of its index."""
        self._file.seek(0)
        self._file.write(_HEAD.pack(b"PACK", 2, len(self._places)))
        digest = hashlib.new(self._format, usedforsecurity=False)
        for chunk in self.chunks():
            digest.update(chunk)
        self._end += self._file.write(digest.digest())
        return digest.hexdigest(), self._index(digest.digest())

    def chunks(self) -> Iterator[bytes]:
        """The bytes of the pack."""
        self._file.seek(0)
        while chunk := self._file.read(_CHUNK):
            yield chunk

    def _index(self, checksum: bytes) -> bytes:
        names = sorted((bytes.fromhex(oid), place) for oid, place in self._places.items())
        counts = [0] * 256
        for name, _ in names:
            counts[name[0]] += 1
        total, fan_out = 0, []
        for count in counts:
            total += count
            fan_out.append(total)
        starts: list[int] = []
        far: list[int] = []
        for _, (start, _crc) in names:
            starts.append(start if start < _LARGE else _LARGE + len(far))
            far += [start] if start >= _LARGE else []
        parts = [b"\xfftOc", struct.pack(">I256I", 2, *fan_out), *(name for name, _ in names)]
        parts += [struct.pack(f">{total}I", *(crc for _, (_, crc) in names)), struct.pack(f">{total}I", *starts), struct.pack(f">{len(far)}Q", *far), checksum]
        content = b"".join(parts)
        return content + hashlib.new(self._format, content, usedforsecurity=False).digest()

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> PackWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _object_head(kind: int, size: int) -> bytes:
    """Kind and length: 4 bits of the length in the first byte, 7 in each further one, the lowest first."""
    head, size = bytearray([kind << 4 | size & 15]), size >> 4
    while size:
        head[-1] |= 0x80
        head.append(size & 0x7F)
        size >>= 7
    return bytes(head)
