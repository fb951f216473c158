"""How bytes are compressed, by their first few: media types are often wrong, and the digests are checked anyway."""

from __future__ import annotations

from typing import Final

from .types import Compression

_GZIP: Final = b"\x1f\x8b\x08"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_ZSTD_SKIPPABLE: Final = b"\x2a\x4d\x18"
"""After a byte 0x50..0x5f (RFC 8878, section 3.1.2)."""


def sniff(untrusted: bytes) -> Compression:
    """The compression of a file that begins so."""
    if untrusted.startswith(_GZIP):
        return "gzip"
    if untrusted.startswith(_ZSTD) or (untrusted[1:4] == _ZSTD_SKIPPABLE and 0x50 <= untrusted[0] <= 0x5F):
        return "zstd"
    return "none"
