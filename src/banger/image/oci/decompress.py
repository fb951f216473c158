"""Archives that are compressed as a whole (``docker save | gzip``) have no members to jump to: they are unpacked into a file without a name first."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import IO, Any, BinaryIO, Final

from ...host.files import explain_no_space
from ...host.threads import run_to_end
from ...model.errors import BangerError
from .blobs import BlobCache

_BLOCK: Final = 4 * 1024 * 1024
_LIMIT: Final = 128 * 1024**3
_MAGIC: Final[dict[bytes, str]] = {b"\x1f\x8b\x08": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz"}


async def uncompressed(file: BinaryIO, cache: BlobCache, where: str) -> BinaryIO:
    """``file`` itself (in a second object, to be closed), or what it unpacks to. Raises BangerError when it is damaged, NoSpace."""
    untrusted = os.pread(file.fileno(), 8, 0)
    kind = next((kind for magic, kind in _MAGIC.items() if untrusted.startswith(magic)), None)
    if kind is None:
        same = os.fdopen(os.dup(file.fileno()), "rb")
        same.seek(0)
        return same
    opener, damages = _opener(kind)
    plain = cache.scratch()
    try:
        with opener(file) as packed, explain_no_space("unpacking an archive", cache.root):
            await _copy(packed, plain, where)
    except damages as error:
        plain.close()
        raise BangerError(f"{where} is damaged: {error}", hint="was it copied whole?") from error
    except BaseException:
        plain.close()
        raise
    plain.seek(0)
    return plain


def _opener(kind: str) -> tuple[Callable[[BinaryIO], Any], tuple[type[Exception], ...]]:
    """How to read it, and what reading raises when it is damaged. Imports only what is used: a start of the daemon needs none."""
    if kind == "gzip":
        import gzip
        import zlib

        return gzip.open, (OSError, EOFError, zlib.error)
    if kind == "zstd":
        from ...host.zstd import ZstdError, open_zstd

        return open_zstd, (OSError, EOFError, ZstdError)
    if kind == "bzip2":
        import bz2

        return bz2.open, (OSError, EOFError)
    import lzma

    return lzma.open, (OSError, EOFError, lzma.LZMAError)


async def _copy(packed: IO[bytes], plain: BinaryIO, where: str) -> None:
    size = 0
    while block := await run_to_end(packed.read, _BLOCK):
        size += len(block)
        if size > _LIMIT:
            raise BangerError(f"{where} unpacks to more than {_LIMIT // 1024**3} GiB")
        await run_to_end(_write, plain, block)


def _write(plain: BinaryIO, block: bytes) -> None:
    view = memoryview(block)
    while view:
        view = view[plain.write(view) or 0 :]
