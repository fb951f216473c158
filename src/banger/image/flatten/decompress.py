"""Decompressing piece by piece, so that memory stays flat whatever the archive says."""

from __future__ import annotations

import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import Final, Literal, Protocol

from ...host import zstd
from .limits import BadArchive

Format = Literal["none", "gzip", "zstd", "xz"]
_OUTPUT: Final = 1024 * 1024
_XZ_MEMORY: Final = 128 * 1024 * 1024
"""xz -9 needs 65 MiB."""
_MAGIC: Final[tuple[tuple[bytes, Format], ...]] = ((b"\x1f\x8b", "gzip"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"\xfd7zXZ\0", "xz"))


class Decoder(Protocol):
    """One member of a compressed file."""

    @property
    def eof(self) -> bool:
        """Whether its end has been reached."""

    @property
    def unused_data(self) -> bytes:
        """What follows its end."""

    def feed(self, data: bytes) -> bytes:
        """The next piece, of limited size; b"" when it needs more ``data``."""


class _Gzip:
    """zlib keeps what it has not used outside of itself."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    def feed(self, data: bytes) -> bytes:
        return self._zlib.decompress(self._zlib.unconsumed_tail + data, _OUTPUT)


class _Zstd:
    def __init__(self) -> None:
        self._zstd = zstd.ZstdDecompressor()

    @property
    def eof(self) -> bool:
        return self._zstd.eof

    @property
    def unused_data(self) -> bytes:
        return self._zstd.unused_data

    def feed(self, data: bytes) -> bytes:
        return self._zstd.decompress(data, _OUTPUT)


class _Xz:
    def __init__(self) -> None:
        self._xz = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)

    @property
    def eof(self) -> bool:
        return self._xz.eof

    @property
    def unused_data(self) -> bytes:
        return self._xz.unused_data

    def feed(self, data: bytes) -> bytes:
        return self._xz.decompress(data, _OUTPUT)


_DECODERS: Final[dict[Format, Callable[[], Decoder]]] = {"gzip": _Gzip, "zstd": _Zstd, "xz": _Xz}


def sniff(head: bytes) -> Format:
    """How a file that begins so is compressed."""
    return next((name for magic, name in _MAGIC if head.startswith(magic)), "none")


def decompress(chunks: Iterator[bytes], compression: Format) -> Iterator[bytes]:
    """The decompressed bytes in pieces of limited size; several members one after the other are one file. Raises BadArchive."""
    if compression == "none":
        yield from chunks
        return
    try:
        yield from _members(chunks, _DECODERS[compression])
    except (zlib.error, lzma.LZMAError, zstd.ZstdError, EOFError) as error:
        raise BadArchive(f"the {compression} data is damaged: {error}") from error


def _members(chunks: Iterator[bytes], make: Callable[[], Decoder]) -> Iterator[bytes]:
    data = next(chunks, b"")
    while data:
        decoder = make()
        yield from _member(decoder, data, chunks)
        data = decoder.unused_data
        # Padding to whole blocks, as of a tape.
        while not data.strip(b"\0"):
            data = next(chunks, b"")
            if not data:
                return


def _member(decoder: Decoder, data: bytes, chunks: Iterator[bytes]) -> Iterator[bytes]:
    while True:
        piece = decoder.feed(data)
        data = b""
        if piece:
            yield piece
        if decoder.eof:
            return
        if not piece:
            data = next(chunks, b"")
            if not data:
                raise BadArchive("the compressed data is cut short")
