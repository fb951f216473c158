"""Fields: the tag-length-value payloads of the agent protocol (docs/agent-protocol.md, section 3)."""

from __future__ import annotations

import struct
from typing import Final, TypeVar

from ..model.errors import BadRequest, GuestError

_T = TypeVar("_T")

_HEAD: Final = struct.Struct("<HI")
_U8: Final = struct.Struct("<B")
_U32: Final = struct.Struct("<I")
_U64: Final = struct.Struct("<Q")
_I64: Final = struct.Struct("<q")

TEXT_LIMIT: Final = 4096
"""Bytes of an untrusted text that are looked at unless the caller says otherwise."""


def u8(number: int) -> bytes:
    """Value of a ``u8`` field."""
    return _U8.pack(number)


def u32(number: int) -> bytes:
    """Value of a ``u32`` field."""
    return _U32.pack(number)


def u64(number: int) -> bytes:
    """Value of a ``u64`` field."""
    return _U64.pack(number)


def i64(number: int) -> bytes:
    """Value of an ``i64`` field."""
    return _I64.pack(number)


def text(words: str) -> bytes:
    """Value of a ``text`` field; undecodable bytes that Python carries as surrogates go out as they came in.

    Raises BadRequest for a NUL, which cannot be in a path, argument or variable of Unix, and for text that no bytes stand for.
    """
    if "\0" in words:
        raise BadRequest(f"{words[:80]!r} contains a NUL byte")
    try:
        return words.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise BadRequest(f"{words[:80]!r} is not valid Unicode") from None


def pack(*fields: tuple[int, bytes]) -> bytes:
    """A sequence of ``(tag, value)`` as sent."""
    return b"".join([part for tag, value in fields for part in (_HEAD.pack(tag, len(value)), value)])


nested = pack
"""Value of a ``fields`` field."""


class Fields:
    """Decoded fields. The typed getters raise GuestError when a field is missing (and has no default), repeated or of a wrong size."""

    __slots__ = ("_values",)

    def __init__(self, values: dict[int, list[bytes]]) -> None:
        self._values = values

    @classmethod
    def parse(cls, untrusted: bytes | memoryview) -> Fields:
        """Split a payload into its fields; raises GuestError when it is malformed."""
        values: dict[int, list[bytes]] = {}
        position, size = 0, len(untrusted)
        while position < size:
            if size - position < _HEAD.size:
                raise GuestError("malformed message from the guest: half a field")
            tag, length = _HEAD.unpack_from(untrusted, position)
            position += _HEAD.size
            if length > size - position:
                raise GuestError(f"malformed message from the guest: field {tag} is longer than the message")
            values.setdefault(tag, []).append(bytes(untrusted[position : position + length]))
            position += length
        return cls(values)

    def u8(self, tag: int, default: int | None = None) -> int:
        return self._number(tag, _U8, default)

    def u32(self, tag: int, default: int | None = None) -> int:
        return self._number(tag, _U32, default)

    def u64(self, tag: int, default: int | None = None) -> int:
        return self._number(tag, _U64, default)

    def i64(self, tag: int, default: int | None = None) -> int:
        return self._number(tag, _I64, default)

    def has(self, tag: int) -> bool:
        """Whether there is such a field at all."""
        return tag in self._values

    def raw(self, tag: int, default: bytes | None = None) -> bytes:
        """Bytes of whatever kind."""
        value = self._single(tag)
        return _present(tag, default) if value is None else value

    def text(self, tag: int, default: str | None = None, *, limit: int = TEXT_LIMIT) -> str:
        """Text of at most ``limit`` bytes; what is not UTF-8 is replaced. It may hold control characters: escape before printing."""
        value = self._single(tag)
        return _present(tag, default) if value is None else _decoded(value, limit)

    def texts(self, tag: int, *, limit: int = TEXT_LIMIT) -> tuple[str, ...]:
        """All values of a text list."""
        return tuple(_decoded(value, limit) for value in self._values.get(tag, ()))

    def nested(self, tag: int, *, at_most: int) -> tuple[Fields, ...]:
        """All values of a list of nested fields; GuestError when there are more than ``at_most``."""
        values = self._values.get(tag, [])
        if len(values) > at_most:
            raise GuestError(f"malformed message from the guest: {len(values)} values of field {tag}, at most {at_most} are allowed")
        return tuple(Fields.parse(value) for value in values)

    def _number(self, tag: int, shape: struct.Struct, default: int | None) -> int:
        value = self._single(tag)
        if value is None:
            return _present(tag, default)
        if len(value) != shape.size:
            raise GuestError(f"malformed message from the guest: field {tag} has {len(value)} bytes instead of {shape.size}")
        number: int = shape.unpack(value)[0]
        return number

    def _single(self, tag: int) -> bytes | None:
        values = self._values.get(tag)
        if values is None:
            return None
        if len(values) > 1:
            raise GuestError(f"malformed message from the guest: field {tag} is repeated")
        return values[0]


def _present(tag: int, default: _T | None) -> _T:
    if default is None:
        raise GuestError(f"malformed message from the guest: field {tag} is missing")
    return default


def _decoded(untrusted: bytes, limit: int) -> str:
    return untrusted[:limit].decode("utf-8", "replace")
