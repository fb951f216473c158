"""Reading the headers of a tar archive that a stranger packed: ustar, GNU and pax. Content is not read, only located."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Protocol

from . import sparse
from .entry import Entry, Kind
from .header import BLOCK, ZEROS, Header, parse_header
from .limits import BadArchive, Limits, shown
from .pax import number_of, parse_records, time_of, xattrs_of

_EXTENDED_LIMIT: Final = 1024 * 1024
_LONG_NAME_LIMIT: Final = 16 * 1024
_WINDOW: Final = 32 * 1024
_SPECIALS_PER_ENTRY: Final = 4
_MAX_ID: Final = 0xFFFFFFFE
_SECOND: Final = 1_000_000_000
_KINDS: Final = {
    b"0": Kind.FILE, b"\0": Kind.FILE, b"7": Kind.FILE, b"S": Kind.FILE, b"1": Kind.HARDLINK, b"2": Kind.SYMLINK,
    b"3": Kind.CHARACTER, b"4": Kind.BLOCK, b"5": Kind.DIRECTORY, b"6": Kind.FIFO,
}  # fmt: skip
_VOLUME_LABEL: Final = b"V"


class Archive(Protocol):
    """The uncompressed bytes, some of which may not be there yet."""

    def read(self, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes; fewer than 512 only at the end, where it waits for them if need be."""


def read_entries(archive: Archive, limits: Limits) -> Iterator[Entry]:
    """All entries in their order. Raises BadArchive, and what ``archive`` raises."""
    return _Reader(archive, limits).entries()


class _Reader:
    def __init__(self, archive: Archive, limits: Limits) -> None:
        self._archive = archive
        self._limits = limits
        self._window = b""
        self._window_start = 0
        self._position = 0
        self._content_end = 0
        self._specials = 0
        self._global: dict[bytes, bytes] = {}
        self._forget()

    def _forget(self) -> None:
        """What extended headers said holds for one entry."""
        self._extended = False
        self._records: dict[bytes, bytes] = self._global
        self._repeated: list[tuple[bytes, bytes]] = []
        self._long_name = b""
        self._long_link = b""

    def entries(self) -> Iterator[Entry]:
        while block := self._next_block():
            header = parse_header(block)
            self._position += BLOCK
            kind = _KINDS.get(header.type)
            if kind is None:
                self._read_special(header)
                continue
            if self._extended or self._global or header.type == b"S":
                yield self._extended_entry(header, kind, block)
                self._forget()
            else:
                yield self._plain_entry(header, kind)

    def _next_block(self) -> bytes:
        """The next header, b"" at the end: two blocks of zeros, or where the file ends."""
        block = self._block(self._position)
        if not block:
            self._check_end()
        elif block == ZEROS:
            if self._block(self._position + BLOCK) not in (ZEROS, b""):
                raise BadArchive("the archive is damaged: data follows an empty header")
            block = b""
        if not block and self._extended:
            raise BadArchive("the archive is cut short: an extended header has no entry")
        return block

    def _block(self, offset: int) -> bytes:
        """512 bytes, or none at the end."""
        at = offset - self._window_start
        if not 0 <= at <= len(self._window) - BLOCK:
            self._window, self._window_start, at = self._archive.read(offset, _WINDOW), offset, 0
        block = self._window[at : at + BLOCK]
        if len(block) not in (0, BLOCK):
            raise BadArchive("the archive is cut short")
        return block

    def _check_end(self) -> None:
        """Some programs leave out the padding behind the last content, but all of that must be there."""
        if self._content_end and not self._archive.read(self._content_end - 1, 1):
            raise BadArchive("the archive is cut short")

    def _existing_block(self, offset: int) -> bytes:
        block = self._block(offset)
        if not block:
            raise BadArchive("the archive is cut short")
        return block

    def _plain_entry(self, header: Header, kind: Kind) -> Entry:
        name, mode, uid, gid, size, mtime, _, link, device = header
        if header.type == b"\0" and name.endswith(b"/"):
            kind = Kind.DIRECTORY
        offset = self._position
        if kind is Kind.FILE:
            self._skip(size)
        else:
            size = 0
        return Entry(name, kind, mode & 0o7777, self._id(uid), self._id(gid), mtime * _SECOND, size, offset, link, device, (), None)

    def _extended_entry(self, header: Header, kind: Kind, block: bytes) -> Entry:
        records = self._records
        stored = number_of(records, b"size", header.size)
        plain = header._replace(
            name=self._long_name or records.get(b"GNU.sparse.name") or records.get(b"path") or header.name,
            link=self._long_link or records.get(b"linkpath") or header.link,
            uid=number_of(records, b"uid", header.uid),
            gid=number_of(records, b"gid", header.gid),
            size=stored,
        )
        start = self._position
        entry = self._plain_entry(plain, kind)
        entry = entry._replace(mtime_ns=time_of(records, entry.mtime_ns), xattrs=xattrs_of(records))
        if header.type == b"S":
            size, pieces, data = sparse.read_old_map(block, start, self._existing_block)
            # The blocks that continue the map are not counted in the size.
            self._position += data - start
            self._content_end += data - start
            return self._sparse_entry(entry, size, pieces, data, stored)
        if entry.kind is Kind.FILE and sparse.is_sparse(records, self._repeated):
            size, pieces, data = sparse.read_pax_map(records, self._repeated, start, self._existing_block)
            return self._sparse_entry(entry, size, pieces, data, stored - (data - start))
        return entry

    def _sparse_entry(self, entry: Entry, size: int, pieces: list[sparse.Piece], data: int, stored: int) -> Entry:
        self._check_size(size)
        return entry._replace(size=size, offset=data, segments=sparse.place(pieces, size, data, stored))

    def _skip(self, size: int) -> None:
        self._check_size(size)
        self._content_end = self._position + size
        self._position += -(-size // BLOCK) * BLOCK

    def _check_size(self, size: int) -> None:
        if size > self._limits.file_bytes:
            raise BadArchive(f"a file of {size} bytes is larger than we take ({self._limits.file_bytes})")

    def _id(self, number: int) -> int:
        if number > _MAX_ID:
            raise BadArchive(f"{number} is not the id of a user or a group")
        return number

    def _read_special(self, header: Header) -> None:
        """Entries that say something about the next one, or nothing."""
        self._specials += 1
        if self._specials > _SPECIALS_PER_ENTRY * self._limits.entries:
            raise BadArchive(f"the archive has more than {self._specials - 1} extended headers")
        match header.type:
            case b"x" | b"g":
                records, repeated = parse_records(self._read_content(header.size, _EXTENDED_LIMIT))
                if header.type == b"g":
                    self._global |= records
                    self._check_global()
                    self._records = self._global | self._records
                else:
                    self._extended, self._records, self._repeated = True, self._global | records, repeated
            case b"L":
                self._extended, self._long_name = True, self._read_content(header.size, _LONG_NAME_LIMIT).partition(b"\0")[0]
            case b"K":
                self._extended, self._long_link = True, self._read_content(header.size, _LONG_NAME_LIMIT).partition(b"\0")[0]
            case _ if header.type == _VOLUME_LABEL:
                self._skip(header.size)
            case _:
                raise BadArchive(f"the archive has an entry of an unknown type {header.type!r}: {shown(header.name)}")

    def _check_global(self) -> None:
        if sum(len(key) + len(value) for key, value in self._global.items()) > _EXTENDED_LIMIT:
            raise BadArchive("the global headers of the archive are larger than we take")

    def _read_content(self, size: int, limit: int) -> bytes:
        if size > limit:
            raise BadArchive(f"an extended header of {size} bytes is larger than we take ({limit})")
        parts, offset, left = [], self._position, size
        while left:
            part = self._archive.read(offset, left)
            if not part:
                raise BadArchive("the archive is cut short")
            parts.append(part)
            offset, left = offset + len(part), left - len(part)
        self._skip(size)
        return b"".join(parts)
