"""Tar streams (POSIX.1-2001 pax, and whatever Python's tarfile reads) as tree streams and the reverse, for ``-`` of ``vm cp``."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

from ..guest.tree_stream import END, Content, Entry, FileEnd, Kind, TreeDecoder, encode_entry, encode_file_end, segment_header
from ..model.errors import BadRequest, BangerError

_PIECE: Final = 1024 * 1024
_BLOCK: Final = 512
_ARCHIVE_END: Final = bytes(2 * _BLOCK)
_ZEROS: Final = bytes(64 * 1024)
_SECOND: Final = 1_000_000_000
_KINDS: Final = {Kind.DIRECTORY: tarfile.DIRTYPE, Kind.REGULAR: tarfile.REGTYPE, Kind.SYMLINK: tarfile.SYMTYPE, Kind.HARDLINK: tarfile.LNKTYPE}


@dataclass(slots=True, kw_only=True)
class TarReader:
    """A tar stream, compressed or not, as a tree stream. ``archive``: with its owners."""

    archive: bool
    on_skipped: Callable[[bytes, str], None]
    entries: int = 0
    size: int = 0

    def read(self, untrusted_file: BinaryIO) -> Iterator[bytes]:
        """The whole stream. Raises BadRequest when the input is not a tar stream or names something outside."""
        try:
            with tarfile.open(fileobj=untrusted_file, mode="r|*", encoding="utf-8", errors="surrogateescape") as tar:
                for member in tar:
                    yield from self._member(tar, member)
                    tar.members.clear()  # type: ignore[attr-defined]  # or every member stays in memory
        except (tarfile.TarError, EOFError, ValueError) as error:
            raise BadRequest(
                f"the input is not a tar stream: {error}", hint="make one, for example with: tar -c DIRECTORY | banger vm cp - VM:DIRECTORY"
            ) from error
        yield END

    def _member(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> Iterator[bytes]:
        path = _inside(member.name)
        if path == b"." and not member.isdir():
            raise BadRequest("the tar stream has a file without a name")
        if member.isdir():
            yield self._entry(Kind.DIRECTORY, path, member)
        elif member.issym():
            yield self._entry(Kind.SYMLINK, path, member, target=os.fsencode(member.linkname))
        elif member.islnk():
            yield self._entry(Kind.HARDLINK, path, member, target=_inside(member.linkname))
        elif member.isfile():
            yield self._entry(Kind.REGULAR, path, member)
            yield from self._content(tar, member)
        else:
            self.on_skipped(path, "a device or fifo")

    def _entry(self, kind: Kind, path: bytes, member: tarfile.TarInfo, target: bytes = b"") -> bytes:
        self.entries += 1
        return encode_entry(
            Entry(
                kind=kind,
                path=path,
                mode=member.mode & 0o7777,
                uid=member.uid if self.archive else None,
                gid=member.gid if self.archive else None,
                mtime_ns=int(member.mtime * _SECOND),
                size=member.size if kind is Kind.REGULAR else 0,
                target=target,
            )
        )

    def _content(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> Iterator[bytes]:
        file = tar.extractfile(member)
        assert file is not None, "regular members have content"
        at, piece_size = 0, len(_ZEROS) if member.issparse() else _PIECE
        while piece := file.read(piece_size):
            if not (member.issparse() and piece == _ZEROS[: len(piece)]):
                yield segment_header(at, len(piece))
                yield piece
            at += len(piece)
            self.size += len(piece)
        if at != member.size:
            raise tarfile.ReadError("it ends in the middle of a file")
        yield encode_file_end(at)


def _inside(untrusted_name: str) -> bytes:
    """A member's name as a path beneath the destination."""
    parts = [part for part in os.fsencode(untrusted_name).split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise BadRequest(f"the tar stream names {untrusted_name[:200]!r}, which leads out of the destination")
    return b"/".join(parts) or b"."


class TarWriter:
    """A tree stream as a tar stream on ``output``. Holes become zeros."""

    def __init__(self, output: BinaryIO) -> None:
        self._output = output
        self._announced = 0
        self._at = 0
        self.entries = 0
        self.size = 0

    def write(self, chunks: Iterable[bytes | memoryview]) -> None:
        """Write it all. Raises GuestError when it is not a tree stream, OSError as the output does."""
        decoder = TreeDecoder()
        for untrusted in chunks:
            for event in decoder.feed(untrusted):
                if isinstance(event, Entry):
                    self._entry(event)
                elif isinstance(event, Content):
                    self._zeros(event.offset - self._at)
                    self._output.write(event.data)
                    self._at = event.offset + len(event.data)
                    self.size += len(event.data)
                elif isinstance(event, FileEnd):
                    self._zeros(self._announced - self._at + -self._announced % _BLOCK)
        decoder.finish()
        self._output.write(_ARCHIVE_END)
        self._output.flush()

    def _entry(self, entry: Entry) -> None:
        if entry.kind not in _KINDS:
            raise BangerError("the guest sent what a tar stream cannot say")
        self.entries += 1
        info = tarfile.TarInfo(os.fsdecode(entry.path))
        info.type = _KINDS[entry.kind]
        info.mode = entry.mode or 0
        info.uid, info.gid = entry.uid or 0, entry.gid or 0
        info.mtime = (entry.mtime_ns or 0) / _SECOND if (entry.mtime_ns or 0) % _SECOND else (entry.mtime_ns or 0) // _SECOND
        info.size = entry.size
        info.linkname = os.fsdecode(entry.target)
        self._output.write(info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))
        self._announced, self._at = entry.size, 0

    def _zeros(self, count: int) -> None:
        while count > 0:
            self._output.write(_ZEROS[:count])
            count -= len(_ZEROS)
