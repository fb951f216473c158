"""Maps of sparse files: four ways to say which pieces of a file have data. GNU tar manual, "Storing Sparse Files"."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from ...storage.ext4image.nodes import Segment
from .header import BLOCK, number
from .limits import BadArchive
from .pax import Records, number_of

_MAX_PIECES: Final = 100_000
_LONGEST_NUMBER: Final = 19
_OLD_MAP: Final = (386, 4)
"""Offset of the map in the header of an old GNU sparse file, and how many pieces it has."""
_OLD_MORE: Final = 482
_OLD_SIZE: Final = slice(483, 495)
_EXTENSION_PIECES: Final = 21
_EXTENSION_MORE: Final = 504

Piece = tuple[int, int]
"""Offset in the file, number of bytes."""
ReadBlock = Callable[[int], bytes]
"""Gives the 512 bytes at an offset of the archive."""


def is_sparse(records: Records, repeated: Sequence[tuple[bytes, bytes]]) -> bool:
    """Whether an extended header tells of a sparse file."""
    return bool(repeated) or b"GNU.sparse.map" in records or b"GNU.sparse.major" in records


def read_pax_map(records: Records, repeated: Sequence[tuple[bytes, bytes]], offset: int, read: ReadBlock) -> tuple[int, list[Piece], int]:
    """Apparent size, pieces, and where the data begins, for the formats 0.0, 0.1 and 1.0; ``offset`` is where the content begins. Raises BadArchive."""
    size = number_of(records, b"GNU.sparse.realsize", number_of(records, b"GNU.sparse.size", -1))
    if records.get(b"GNU.sparse.major", b"0") == b"1":
        numbers, data = _decimal_map(offset, read)
    elif b"GNU.sparse.map" in records:
        words = records[b"GNU.sparse.map"]
        numbers, data = [_decimal(word) for word in words.split(b",")] if words else [], offset
    else:
        if any(key != (b"GNU.sparse.offset", b"GNU.sparse.numbytes")[index % 2] for index, (key, _) in enumerate(repeated)):
            raise _bad_map()
        numbers, data = [_decimal(value) for _, value in repeated], offset
    if size < 0 or len(numbers) % 2 or len(numbers) > 2 * _MAX_PIECES:
        raise _bad_map()
    return size, list(zip(numbers[::2], numbers[1::2], strict=True)), data


def read_old_map(untrusted_header: bytes, offset: int, read: ReadBlock) -> tuple[int, list[Piece], int]:
    """The same for an old GNU sparse file, whose map continues in blocks before the data."""
    pieces = _octal_pieces(untrusted_header, *_OLD_MAP)
    more = untrusted_header[_OLD_MORE]
    while more:
        block = read(offset)
        offset += BLOCK
        pieces += _octal_pieces(block, 0, _EXTENSION_PIECES)
        more = block[_EXTENSION_MORE]
        if len(pieces) > _MAX_PIECES:
            raise _bad_map()
    return number(untrusted_header[_OLD_SIZE]), pieces, offset


def place(pieces: Iterable[Piece], size: int, data: int, stored: int) -> tuple[Segment, ...]:
    """The pieces with their places in the archive. Raises BadArchive unless they are in order, within ``size``, and are the ``stored`` bytes at ``data``."""
    found = []
    end, used = 0, 0
    for offset, length in pieces:
        if offset < end or offset + length > size:
            raise _bad_map()
        if length:
            found.append(Segment(offset, data + used, length))
        end, used = offset + length, used + length
    if used != stored:
        raise _bad_map()
    return tuple(found)


def _octal_pieces(block: bytes, start: int, count: int) -> list[Piece]:
    found = []
    for at in range(start, start + 24 * count, 24):
        if not block[at]:
            break
        found.append((number(block[at : at + 12]), number(block[at + 12 : at + 24])))
    return found


def _decimal_map(offset: int, read: ReadBlock) -> tuple[list[int], int]:
    """Format 1.0: lines in the blocks before the data, the first is the number of pieces."""
    lines: list[bytes] = []
    rest = b""
    wanted = 1
    while len(lines) < wanted:
        *more, rest = (rest + read(offset)).split(b"\n")
        offset += BLOCK
        lines += more
        if lines:
            wanted = 1 + 2 * _decimal(lines[0])
        if wanted > 1 + 2 * _MAX_PIECES or (len(lines) < wanted and len(rest) > _LONGEST_NUMBER):
            raise _bad_map()
    return [_decimal(line) for line in lines[1:wanted]], offset


def _decimal(text: bytes) -> int:
    if not text.isdigit() or len(text) > _LONGEST_NUMBER:
        raise _bad_map()
    return int(text)


def _bad_map() -> BadArchive:
    return BadArchive("the archive is damaged: the map of a sparse file is malformed, or has too many pieces")
