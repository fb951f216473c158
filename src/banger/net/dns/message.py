"""Messages of the domain name system, as far as a small server needs them (RFC 1035 section 4; EDNS: RFC 6891).

A question is kept as the bytes that came, so that what goes back has the same upper and lower case (draft-vixie-dnsext-dns0x20).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

UDP_SIZE: Final = 1232
"""What we take and send in a datagram at most: it fits into every path's packets (dnsflagday.net/2020)."""
PLAIN_SIZE: Final = 512
"""What a client without EDNS takes (RFC 1035 section 2.3.4)."""
QUESTION_AT: Final = 12

_HEADER: Final = struct.Struct("!HHHHHH")
_RECORD: Final = struct.Struct("!HHIH")
_QR, _AA, _TC, _RD, _RA, _CD = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080, 0x0010
_OPCODE: Final = 0x7800
_DNSSEC_OK: Final = 0x8000
_MAX_NAME: Final = 255
_MAX_LABEL: Final = 63
_MAX_ADDITIONAL: Final = 4


class Code(IntEnum):
    """Response codes (RFC 1035 section 4.1.1, RFC 6891 section 9)."""

    NOERROR = 0
    FORMERR = 1
    SERVFAIL = 2
    NXDOMAIN = 3
    NOTIMP = 4
    REFUSED = 5
    BADVERS = 16


class Type(IntEnum):
    """Types of records that we know by name."""

    A = 1
    SOA = 6
    PTR = 12
    OPT = 41
    ANY = 255


IN: Final = 1


class Malformed(ValueError):
    """Bytes that are no message."""


@dataclass(frozen=True, slots=True)
class Edns:
    """The client's OPT record."""

    size: int
    """Of a datagram that it takes, as it says; 512 at least."""
    version: int
    dnssec_ok: bool


@dataclass(frozen=True, slots=True)
class Query:
    """A message that asks one thing."""

    id: int
    flags: int
    labels: tuple[bytes, ...]
    """Of the name that is asked for, in lower case."""
    type: int
    cls: int
    question: bytes
    """As it came: name, type and class."""
    edns: Edns | None

    @property
    def datagram_size(self) -> int:
        """How long an answer by UDP may be."""
        return PLAIN_SIZE if self.edns is None else max(PLAIN_SIZE, min(self.edns.size, UDP_SIZE))


@dataclass(frozen=True, slots=True)
class Record:
    """A record of an answer, named by a suffix of the name that was asked for."""

    skip: int
    """Labels of that name that are not part of this record's: 0 = the very name."""
    type: int
    ttl: int
    data: bytes


def read_query(untrusted: bytes) -> Query | bytes | None:
    """What is asked; or the answer to what is not a proper query; or None for what must not be answered at all: scraps, and answers (else two servers
    could answer each other for ever)."""
    if len(untrusted) < _HEADER.size:
        return None
    ident, flags, questions, answers, authorities, additional = _HEADER.unpack_from(untrusted)
    if flags & _QR:
        return None
    if flags & _OPCODE:
        return _bare(ident, flags, Code.NOTIMP)
    if questions != 1 or answers or authorities or additional > _MAX_ADDITIONAL:
        return _bare(ident, flags, Code.FORMERR)
    try:
        return _read_body(untrusted, ident, flags, additional)
    except (Malformed, struct.error, IndexError):
        return _bare(ident, flags, Code.FORMERR)


def _read_body(untrusted: bytes, ident: int, flags: int, additional: int) -> Query:
    labels, at = _read_name(untrusted, QUESTION_AT)
    kind, cls = struct.unpack_from("!HH", untrusted, at)
    at += 4
    edns, end = _read_additional(untrusted, at, additional)
    if end != len(untrusted):
        raise Malformed("bytes behind the message")
    return Query(ident, flags, labels, kind, cls, untrusted[QUESTION_AT:at], edns)


def _read_name(untrusted: bytes, at: int) -> tuple[tuple[bytes, ...], int]:
    """Labels in lower case and where the name ends. A question has nothing before it that a compressed name could point to."""
    labels: list[bytes] = []
    begin = at
    while length := untrusted[at]:
        label = untrusted[at + 1 : at + 1 + length]
        at += 1 + length
        if length > _MAX_LABEL or len(label) != length or at - begin >= _MAX_NAME:
            raise Malformed("not a name")
        labels.append(label.lower())
    return tuple(labels), at + 1


def _read_additional(untrusted: bytes, at: int, count: int) -> tuple[Edns | None, int]:
    edns: Edns | None = None
    for _ in range(count):
        is_root = untrusted[at] == 0
        at = _skip_name(untrusted, at)
        kind, cls, ttl, length = _RECORD.unpack_from(untrusted, at)
        at += _RECORD.size + length
        if kind != Type.OPT:
            continue
        if edns is not None or not is_root:
            raise Malformed("a wrong OPT record (RFC 6891 section 6.1.1)")
        edns = Edns(max(PLAIN_SIZE, cls), ttl >> 16 & 0xFF, bool(ttl & _DNSSEC_OK))
    return edns, at


def _skip_name(untrusted: bytes, at: int) -> int:
    while length := untrusted[at]:
        if length >= 0xC0:
            return at + 2
        if length > _MAX_LABEL:
            raise Malformed("not a name")
        at += 1 + length
    return at + 1


def write_name(*labels: bytes) -> bytes:
    """A whole name, not compressed."""
    return b"".join(bytes((len(label),)) + label for label in labels) + b"\0"


def write_answer(
    query: Query,
    code: Code,
    *,
    answers: tuple[Record, ...] = (),
    authority: tuple[Record, ...] = (),
    authoritative: bool = False,
    recursion: bool = False,
    truncated: bool = False,
) -> bytes:
    """The whole answer. ``recursion``: we would ask others for this client."""
    flags = _QR | query.flags & (_RD | _CD) | (_AA if authoritative else 0) | (_RA if recursion else 0) | (_TC if truncated else 0) | code & 0xF
    header = _HEADER.pack(query.id, flags, 1, len(answers), len(authority), query.edns is not None)
    return b"".join((header, query.question, *(_write_record(query, record) for record in (*answers, *authority)), _write_edns(query.edns, code)))


def _write_record(query: Query, record: Record) -> bytes:
    at = QUESTION_AT + sum(len(label) + 1 for label in query.labels[: record.skip])
    return struct.pack("!HHHIH", 0xC000 | at, record.type, IN, record.ttl, len(record.data)) + record.data


def _write_edns(edns: Edns | None, code: int) -> bytes:
    if edns is None:
        return b""
    return b"\0" + _RECORD.pack(Type.OPT, UDP_SIZE, code >> 4 << 24 | (_DNSSEC_OK if edns.dnssec_ok else 0), 0)


def _bare(ident: int, flags: int, code: Code) -> bytes:
    return _HEADER.pack(ident, _QR | flags & (_OPCODE | _RD) | code, 0, 0, 0, 0)


# -- what goes to a resolver of the host's, and comes back ---------------------------------------------------------------------------------------------


def write_query(query: Query, ident: int) -> bytes:
    """The same question for another server: our id, no options of the client's (they are between two neighbours, RFC 6891 section 6.2.6)."""
    header = _HEADER.pack(ident, query.flags & (_RD | _CD), 1, 0, 0, query.edns is not None)
    if query.edns is None:
        return header + query.question
    return header + query.question + b"\0" + _RECORD.pack(Type.OPT, query.datagram_size, _DNSSEC_OK if query.edns.dnssec_ok else 0, 0)


def is_answer(untrusted: bytes, query: Query, ident: int) -> bool:
    """Whether this is what the server says to ``write_query(query, ident)``; one that only says what went wrong may leave out the question."""
    if len(untrusted) < _HEADER.size:
        return False
    flags: int
    got, flags, questions, _, _, _ = _HEADER.unpack_from(untrusted)
    if got != ident or not flags & _QR or flags & _OPCODE:
        return False
    if questions == 0:
        return flags & 0xF != Code.NOERROR
    return questions == 1 and _same_question(untrusted[QUESTION_AT : QUESTION_AT + len(query.question)], query.question)


def _same_question(untrusted: bytes, question: bytes) -> bool:
    return untrusted[-4:] == question[-4:] and untrusted[:-4].lower() == question[:-4].lower()


def pass_on(untrusted: bytes, query: Query, *, limit: int) -> bytes:
    """The server's answer as the client gets it: its id, its spelling of the name, and TC instead of what it could not take (``limit`` bytes)."""
    flags: int
    _, flags, questions, _, _, _ = _HEADER.unpack_from(untrusted)
    if questions == 0:
        return write_answer(query, _code(flags), recursion=True)
    if len(untrusted) > limit:
        return write_answer(query, _code(flags), recursion=True, truncated=True)
    header = struct.pack("!HH", query.id, flags & ~_AA | _RA) + untrusted[4:QUESTION_AT]
    return header + query.question + untrusted[QUESTION_AT + len(query.question) :]


def _code(flags: int) -> Code:
    try:
        return Code(flags & 0xF)
    except ValueError:
        return Code.SERVFAIL
