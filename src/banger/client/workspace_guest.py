"""A machine as a workspace sees it: commands are ``vm.exec``, files are a tree stream."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Final

from ..api.guest_types import Unpack
from ..api.types import StreamTicket
from ..guest.tree_stream import END, Entry, Kind, encode_entry, encode_file_end, segment_header
from ..model.errors import BangerError
from ..workspace.guest import OUTPUT_LIMIT, Output
from ..workspace.records import Record
from .capture import capture
from .client import Client
from .transfer import send_content

_KINDS: Final = {"directory": Kind.DIRECTORY, "regular": Kind.REGULAR, "symlink": Kind.SYMLINK, "remove": Kind.REMOVE, "prune": Kind.PRUNE}


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientGuest:
    """The machine ``ref`` as its user ``user`` ("" = root). ``on_sent`` hears of the bytes that are sent."""

    client: Client
    ref: str
    user: str = ""
    on_sent: Callable[[int], None] = lambda _size: None

    def run(self, argv: Sequence[str], *, into: IO[bytes] | None = None, limit: int = OUTPUT_LIMIT) -> Output:
        return capture(self.client, self.ref, argv, user=self.user, into=into, limit=limit)

    def unpack(self, records: Iterable[Record], destination: str, *, uid: int, gid: int) -> None:
        request = Unpack(destination=destination, uid=uid, gid=gid, parents=True, replace=True, real=True)
        ticket: StreamTicket = self.client.call("vm.unpack", {"ref": self.ref}, request)
        with self.client.attach(ticket.token) as sock:
            send_content(sock, tree_stream(records), self.on_sent)


def tree_stream(records: Iterable[Record]) -> Iterator[bytes]:
    """The records as the bytes of a tree stream. Raises BangerError for a path that does not fit into one."""
    for record in records:
        yield _encoded_head(record)
        if record.kind == "regular":
            at = 0
            for chunk in record.content:
                if chunk:
                    yield segment_header(at, len(chunk))
                    yield chunk
                    at += len(chunk)
            yield encode_file_end(at)
    yield END


def _encoded_head(record: Record) -> bytes:
    kept = record.kind in ("regular", "symlink")
    entry = Entry(
        kind=_KINDS[record.kind],
        path=record.path,
        mode=None if record.kind in ("remove", "prune") else record.mode,
        mtime_ns=record.mtime_ns if kept else None,
        size=record.size,
        target=record.target,
    )
    try:
        return encode_entry(entry)
    except ValueError as error:
        raise BangerError(f"{record.path!r} is too long to be sent") from error
