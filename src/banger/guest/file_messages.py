"""Requests and results of the operations on files and users (docs/agent-protocol.md, operations 11 to 14)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from ..model.errors import BadRequest
from .fields import Fields, pack, text, u8, u32

MAX_PATH: Final = 4095
_MAKE_DESTINATION, _REPLACE, _REAL = 1, 2, 4
_FOLLOW, _CONTENTS, _XATTRS = 1, 2, 4

PathKind = Literal["other", "directory", "file", "symlink"]
_KINDS: Final[tuple[PathKind, ...]] = ("other", "directory", "file", "symlink")


@dataclass(frozen=True, slots=True, kw_only=True)
class PathStatus:
    """What is at a path of a guest. ``target`` is what a symbolic link says; ``real_path`` the path without links."""

    kind: PathKind
    mode: int
    size: int
    uid: int
    gid: int
    mtime_ns: int
    target: str = ""
    real_path: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestUser:
    """A user of a guest, as its /etc/passwd says."""

    name: str
    uid: int
    gid: int
    home: str
    shell: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Unpacked:
    """What ``unpack`` has done. ``size`` counts the bytes of content."""

    entries: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """What ``pack`` has sent; ``warnings`` tell of the first of the ``skipped`` files that cannot be in a tree stream."""

    entries: int
    size: int
    skipped: int = 0
    warnings: tuple[str, ...] = ()


def guest_path(path: str) -> bytes:
    """``path`` as it is sent. Raises BadRequest unless it is absolute and not too long."""
    value = text(path)
    if not value.startswith(b"/") or len(value) > MAX_PATH:
        raise BadRequest(f"{path[:80]!r} is not an absolute path of at most {MAX_PATH} bytes")
    return value


def unpack_request(
    *, destination: str, uid: int | None = None, gid: int | None = None, parents: bool = False, replace: bool = False, real: bool = False
) -> bytes:
    """Request of ``unpack``. ``uid``/``gid`` override every entry's owner, ``parents`` makes a missing destination, ``replace`` lets a file take the
    place of a directory and the reverse, ``real`` follows no symbolic link beneath the destination."""
    fields = [(16, guest_path(destination)), (19, u32(_MAKE_DESTINATION * parents | _REPLACE * replace | _REAL * real))]
    if uid is not None or gid is not None:
        fields += [(17, u32(uid or 0)), (18, u32(gid or 0))]
    return pack(*fields)


def pack_request(*, path: str, name: str = "", follow: bool = False, contents: bool = False, xattrs: bool = False) -> bytes:
    """Request of ``pack``. ``name`` is what the stream calls the top (default: its own name); with ``contents`` that is ``.``."""
    flags = _FOLLOW * follow | _CONTENTS * contents | _XATTRS * xattrs
    return pack((16, guest_path(path)), (17, u32(flags)), (18, text(name)))


def stat_request(*, path: str, follow: bool = False) -> bytes:
    """Request of ``stat``; ``follow`` a symbolic link at its end."""
    return pack((16, guest_path(path)), (17, u8(follow)))


def user_request(name: str) -> bytes:
    """Request of ``user``; "" = root."""
    return pack((16, text(name)))


def decode_unpacked(fields: Fields) -> Unpacked:
    """RESULT of ``unpack``."""
    return Unpacked(entries=fields.u64(16), size=fields.u64(17))


def decode_packed(fields: Fields) -> Packed:
    """RESULT of ``pack``."""
    return Packed(entries=fields.u64(16), size=fields.u64(17), skipped=fields.u64(19, 0), warnings=fields.texts(18, limit=256))


def decode_path_status(fields: Fields) -> PathStatus:
    """RESULT of ``stat``."""
    untrusted_kind = fields.u8(16)
    return PathStatus(
        kind=_KINDS[untrusted_kind] if untrusted_kind < len(_KINDS) else "other",
        mode=fields.u32(17) & 0o7777,
        size=fields.u64(18),
        uid=fields.u32(19),
        gid=fields.u32(20),
        mtime_ns=fields.i64(21),
        target=fields.text(22, ""),
        real_path=fields.text(23, ""),
    )


def decode_user(fields: Fields) -> GuestUser:
    """RESULT of ``user``."""
    return GuestUser(uid=fields.u32(16), gid=fields.u32(17), home=fields.text(18), shell=fields.text(19), name=fields.text(20))
