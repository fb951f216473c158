"""``vm cp``: files into a machine and out of it."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

from ..api.guest_types import Pack, PathStatus, StatPath, Unpack
from ..api.types import StreamTicket
from ..guest.fields import Fields
from ..guest.file_messages import decode_packed, decode_unpacked
from ..model.errors import BadRequest
from .client import Client
from .files import TreeReader
from .places import Found, HostFiles, Place, Source, find_source, find_target
from .tarball import TarReader, TarWriter
from .transfer import receive_content, send_content
from .tree_writer import TreeWriter

_WARNINGS_MAX: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Copied:
    """What was copied. ``warnings`` tell of the first of those that were ``skipped``."""

    entries: int
    bytes: int
    skipped: int
    warnings: tuple[str, ...]


@dataclass(slots=True, kw_only=True)
class Copy:
    """One copy. ``on_moved(bytes, total)`` is told of every piece; ``total`` is None where it is not known."""

    client: Client
    archive: bool = False
    follow: bool = False
    on_moved: Callable[[int, int | None], None] = lambda _size, _total: None

    def run(self, source: Place, target: Place, *, stdin: BinaryIO, stdout: BinaryIO) -> Copied:
        """Copy between a machine and this host; ``-`` is ``stdin`` or ``stdout``. Raises BadRequest, GuestError, BangerError."""
        if source.vm and target.vm:
            raise BadRequest("copying from machine to machine is not supported", hint="copy to the host first, or pipe: vm cp A:PATH - | vm cp - B:PATH")
        if target.vm:
            return self._tar_in(stdin, target) if source.is_stream else self._tree_in(source, target)
        if source.vm:
            return self._tar_out(source, stdout) if target.is_stream else self._tree_out(source, target)
        raise BadRequest("one of the two must be in a machine", hint="write VM:PATH, for example box:/root")

    # -- in ------------------------------------------------------------------------------------------------------------------------------------

    def _tree_in(self, place: Place, target: Place) -> Copied:
        source = find_source(HostFiles(), place, follow=self.follow)
        where = find_target(_GuestFiles(self.client, target.vm), target, source)
        skipped = _Skipped()
        reader = TreeReader(archive=self.archive, on_skipped=skipped)
        chunks = reader.read(os.fsencode(source.path), os.fsencode(where.name) or b".", follow=source.follow)
        self._send(target.vm, where.directory, chunks, source.size if source.kind == "file" else None)
        return Copied(entries=reader.entries, bytes=reader.size, skipped=skipped.count, warnings=tuple(skipped.warnings))

    def _tar_in(self, stdin: BinaryIO, target: Place) -> Copied:
        where = find_target(_GuestFiles(self.client, target.vm), target, None)
        skipped = _Skipped()
        reader = TarReader(archive=self.archive, on_skipped=skipped)
        self._send(target.vm, where.directory, reader.read(stdin), None)
        return Copied(entries=reader.entries, bytes=reader.size, skipped=skipped.count, warnings=tuple(skipped.warnings))

    def _send(self, vm: str, directory: str, chunks: Iterable[bytes], total: int | None) -> None:
        ticket: StreamTicket = self.client.call("vm.unpack", {"ref": vm}, Unpack(destination=sendable(directory)))
        with self.client.attach(ticket.token) as sock:
            decode_unpacked(send_content(sock, chunks, lambda size: self.on_moved(size, total)))

    # -- out -----------------------------------------------------------------------------------------------------------------------------------

    def _tree_out(self, place: Place, target: Place) -> Copied:
        source = find_source(_GuestFiles(self.client, place.vm), place, follow=self.follow)
        where = find_target(HostFiles(), target, source)
        with TreeWriter(os.fsencode(where.directory), archive=self.archive) as writer:
            fields = self._receive(place.vm, source, where.name, writer.write)
            copied = _received(fields, writer.entries, writer.size)
            if writer.not_given:
                warning = f"{writer.not_given} files belong to you: only root can give them to their owners"
                copied = Copied(entries=copied.entries, bytes=copied.bytes, skipped=copied.skipped, warnings=(*copied.warnings, warning))
            return copied

    def _tar_out(self, place: Place, stdout: BinaryIO) -> Copied:
        source = find_source(_GuestFiles(self.client, place.vm), place, follow=self.follow)
        writer = TarWriter(stdout)
        fields = self._receive(place.vm, source, "" if source.contents else source.name, writer.write)
        return _received(fields, writer.entries, writer.size)

    def _receive(self, vm: str, source: Source, name: str, take: Callable[[Iterable[bytes | memoryview]], None]) -> Fields:
        request = Pack(path=sendable(source.path), name=sendable(name), follow=source.follow, contents=not name, xattrs=self.archive)
        ticket: StreamTicket = self.client.call("vm.pack", {"ref": vm}, request)
        total = source.size if source.kind == "file" else None
        with self.client.attach(ticket.token) as sock:
            receiver = receive_content(sock)
            take(self._counted(receiver, total))
            assert receiver.result is not None, "the receiver goes on until there is one"
            return receiver.result

    def _counted(self, chunks: Iterable[bytes | memoryview], total: int | None) -> Iterator[bytes | memoryview]:
        for chunk in chunks:
            yield chunk
            self.on_moved(len(chunk), total)


def _received(fields: Fields, entries: int, size: int) -> Copied:
    packed = decode_packed(fields)
    return Copied(entries=entries, bytes=size, skipped=packed.skipped, warnings=packed.warnings)


class _Skipped:
    """Collects what could not be copied."""

    def __init__(self) -> None:
        self.count = 0
        self.warnings: list[str] = []

    def __call__(self, path: bytes, why: str) -> None:
        self.count += 1
        if len(self.warnings) < _WARNINGS_MAX:
            self.warnings.append(f"{os.fsdecode(path)}: {why}")


class _GuestFiles:
    """The files of a running machine."""

    def __init__(self, client: Client, vm: str) -> None:
        self._client = client
        self._vm = vm

    def look(self, path: str, *, follow: bool) -> Found:
        status: PathStatus = self._client.call("vm.stat_path", {"ref": self._vm}, StatPath(path=sendable(path), follow=follow))
        if status.kind == "missing" and follow:
            link: PathStatus = self._client.call("vm.stat_path", {"ref": self._vm}, StatPath(path=sendable(path)))
            if link.kind == "symlink":
                return Found("missing", posixpath.normpath(posixpath.join(posixpath.dirname(path), link.target)))
        return Found(status.kind, status.real_path or path, status.size)


def sendable(word: str) -> str:
    """``word`` itself; raises BadRequest when it is not UTF-8 (PEP 383 surrogates), which the daemon's contract cannot carry."""
    try:
        word.encode()
    except UnicodeEncodeError:
        raise BadRequest(f"{word.encode(errors='surrogateescape')!r} is not valid UTF-8", hint="copy the directory that holds it, or use - with tar") from None
    return word
