"""Bundles: an image in one file, ``tar`` compressed with zstd, of exactly ``manifest.json`` and then ``rootfs.ext4``.

Reading trusts nothing: two regular members of these names in this order, sizes bounded before anything is written, the digest of the file system checked.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, BinaryIO, Final, cast

import msgspec

from ..host.files import explain_no_space
from ..model.errors import BadRequest
from ..model.records import ImageConfig, ImageRecord
from ..model.sizes import GIB, MIB, format_size
from .ext4_file import BLOCK, copy_sparse, zeros

MANIFEST: Final = "manifest.json"
ROOTFS: Final = "rootfs.ext4"
FORMAT: Final = "banger-image"
MAX_ROOTFS_BYTES: Final = 128 * GIB
MAX_MANIFEST_BYTES: Final = MIB
_RECORD: Final = 512
_TRAILER: Final = 1 * MIB
_CHUNK: Final = MIB

Progress = Callable[[int, int], None]
"""Called with bytes done and bytes in all; may raise to end the work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleManifest:
    """``manifest.json`` of a bundle."""

    format: str
    version: int
    name: str
    digest: str
    """``sha256:...`` of rootfs.ext4."""
    size_bytes: int
    kernel_name: str = ""
    source: str = ""
    reference: str = ""
    manifest_digest: str = ""
    created_at: float = 0.0
    config: ImageConfig = field(default_factory=ImageConfig)


def manifest_of(record: ImageRecord) -> BundleManifest:
    """What a bundle of this image says about it."""
    return BundleManifest(
        format=FORMAT,
        version=1,
        name=record.name,
        digest=record.digest,
        size_bytes=record.size_bytes,
        kernel_name=record.kernel_name,
        source=record.source,
        reference=record.reference if record.manifest_digest else "",
        manifest_digest=record.manifest_digest,
        created_at=record.created_at,
        config=record.config,
    )


def write(record: ImageRecord, rootfs: Path, destination: Path, progress: Progress) -> None:
    """Write the bundle of ``record`` to the new file ``destination``, mode 0644. Blocking. Raises FileExistsError, NoSpace, BadRequest."""
    from ..host.zstd import open_zstd

    manifest = msgspec.json.format(msgspec.json.encode(asdict(manifest_of(record))), indent=2)
    with explain_no_space("writing the bundle", destination.parent), destination.open("xb") as raw:
        os.fchmod(raw.fileno(), 0o644)
        with cast(IO[bytes], open_zstd(raw, "wb", level=3)) as packed, rootfs.open("rb") as content:
            size = os.fstat(content.fileno()).st_size
            packed.write(_header(MANIFEST, len(manifest)) + manifest + _padding(len(manifest)))
            packed.write(_header(ROOTFS, size))
            digest = _pack(content, packed, size, progress)
            packed.write(_padding(size) + bytes(2 * _RECORD))
        os.fsync(raw.fileno())
    if digest != record.digest:
        raise BadRequest(f"{rootfs} has changed since the image was made", hint="banger image promote copies a file of yours before it can change")


def unpack(file: Path, staging: Path, progress: Progress) -> BundleManifest:
    """Write ``staging/rootfs.ext4`` from the bundle ``file``; holes stay holes. Blocking. Raises BadRequest for anything that is not a bundle, NoSpace."""
    from ..host.zstd import ZstdError, open_zstd

    try:
        with explain_no_space("unpacking the bundle", staging), file.open("rb") as raw, cast(IO[bytes], open_zstd(raw, "rb")) as untrusted:
            manifest = _read_manifest(untrusted)
            size = _read_header(untrusted, ROOTFS)
            if size != manifest.size_bytes or not 0 < size <= MAX_ROOTFS_BYTES:
                raise BadRequest(
                    f"{ROOTFS} of the bundle has {size} bytes, its manifest says {manifest.size_bytes}, at most {format_size(MAX_ROOTFS_BYTES)} are taken"
                )
            digest = _unpack_rootfs(untrusted, staging / ROOTFS, size, progress)
            _read_end(untrusted, size)
    except (ZstdError, EOFError) as error:
        raise BadRequest(f"the bundle is damaged: {error}") from error
    if digest != manifest.digest:
        raise BadRequest(f"{ROOTFS} of the bundle has digest {digest}, its manifest says {manifest.digest[:80]}")
    return manifest


def looks_like_one(untrusted_head: bytes) -> bool:
    """Whether a tar archive that begins so is meant to be a bundle: its first member is our manifest, which is an object (docker's is an array)."""
    try:
        return _member(untrusted_head[:_RECORD]).name.removeprefix("./") in (MANIFEST, ROOTFS) and untrusted_head[_RECORD : _RECORD + 1] != b"["
    except BadRequest:
        return False


# -- writing ---------------------------------------------------------------------------------------------------------------------------------------


def _header(name: str, size: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o644
    return member.tobuf(tarfile.GNU_FORMAT)


def _padding(size: int) -> bytes:
    return bytes(-size % _RECORD)


def _pack(content: BinaryIO, packed: IO[bytes], size: int, progress: Progress) -> str:
    """Append the file; what is a hole in it is not read. Its digest."""
    sha, done = hashlib.sha256(), 0
    for block in _blocks_with_holes(content, size):
        sha.update(block)
        packed.write(block)
        done += len(block)
        progress(done, size)
    return f"sha256:{sha.hexdigest()}"


def _blocks_with_holes(content: BinaryIO, size: int) -> Iterator[bytes]:
    fd, position = content.fileno(), 0
    while position < size:
        try:
            data = os.lseek(fd, position, os.SEEK_DATA)
        except OSError:  # ENXIO: only a hole follows
            data = size
        yield from _zero_blocks(min(data, size) - position)
        position = min(data, size)
        end = os.lseek(fd, position, os.SEEK_HOLE) if position < size else size
        while position < end:
            block = os.pread(fd, min(_CHUNK, end - position), position)
            if not block:
                raise BadRequest("the file became shorter while it was read")
            yield block
            position += len(block)


def _zero_blocks(size: int) -> Iterator[bytes]:
    while size > 0:
        yield zeros(min(_CHUNK, size))
        size -= min(_CHUNK, size)


# -- reading ---------------------------------------------------------------------------------------------------------------------------------------


def _read_exactly(untrusted: IO[bytes], size: int) -> bytes:
    found = bytearray()
    while len(found) < size:
        block = untrusted.read(size - len(found))
        if not block:
            raise BadRequest("the bundle is cut short")
        found += block
    return bytes(found)


def _member(untrusted_header: bytes) -> tarfile.TarInfo:
    try:
        return tarfile.TarInfo.frombuf(untrusted_header, "utf-8", "strict")
    except (tarfile.HeaderError, UnicodeDecodeError) as error:
        raise BadRequest(f"the bundle is not a tar archive: {error}") from error


def _read_header(untrusted: IO[bytes], name: str) -> int:
    """Size of the member that begins here, which must be a plain file ``name``."""
    member = _member(_read_exactly(untrusted, _RECORD))
    found = member.name.removeprefix("./")
    if found == name and member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
        raise BadRequest(f"{name} in the bundle is {_kind(member)}, not a regular file", hint="pack the file itself: tar --dereference")
    if found != name or member.size < 0:
        raise BadRequest(
            f"the bundle holds {member.name[:100]!r} where the file {name} belongs", hint=f"a bundle is {MANIFEST} and then {ROOTFS}, and nothing else"
        )
    return member.size


def _kind(member: tarfile.TarInfo) -> str:
    return "a symbolic link" if member.issym() else "a hard link" if member.islnk() else "a directory" if member.isdir() else "something else"


def _read_manifest(untrusted: IO[bytes]) -> BundleManifest:
    size = _read_header(untrusted, MANIFEST)
    if size > MAX_MANIFEST_BYTES:
        raise BadRequest(f"the bundle's manifest is larger than {format_size(MAX_MANIFEST_BYTES)}")
    text = _read_exactly(untrusted, size + len(_padding(size)))[:size]
    try:
        manifest = msgspec.json.decode(text, type=BundleManifest)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadRequest(f"the bundle's manifest is not understood: {error}") from error
    if manifest.format != FORMAT or manifest.version != 1:
        raise BadRequest(f"this is no image bundle of version 1 but {manifest.format[:40]!r} {manifest.version}", hint="a newer banger may read it")
    if b"\\u0000" in text:
        raise BadRequest("the bundle's manifest holds a zero character")
    return manifest


def _unpack_rootfs(untrusted: IO[bytes], destination: Path, size: int, progress: Progress) -> str:
    sha, done = hashlib.sha256(), 0
    with destination.open("xb") as out:
        os.fchmod(out.fileno(), 0o644)
        while done < size:
            block = _read_exactly(untrusted, min(BLOCK, size - done))
            sha.update(block)
            copy_sparse(out, block)
            done += len(block)
            progress(done, size)
        out.truncate(size)
    return f"sha256:{sha.hexdigest()}"


def _read_end(untrusted: IO[bytes], size: int) -> None:
    """Only zeros may follow."""
    rest = untrusted.read(len(_padding(size)) + _TRAILER)
    if len(rest) < 2 * _RECORD or rest.strip(b"\0") or untrusted.read(1):
        raise BadRequest("the bundle holds more than it may", hint=f"a bundle is {MANIFEST} and then {ROOTFS}, and nothing else")
