"""How large what strangers packed may be, and how it is refused."""

from __future__ import annotations

from dataclasses import dataclass

from ...model.errors import BangerError
from ...model.sizes import GIB, MIB, TIB


class BadArchive(BangerError):
    """An archive is damaged, hostile or larger than we take; nothing of it was used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Everything is checked before it is allocated or written. The numbers are far above what real images have."""

    layers: int = 256
    """Each takes a descriptor."""
    layer_bytes: int = 64 * GIB
    """Of one layer, decompressed."""
    total_bytes: int = 128 * GIB
    """Of all layers together, decompressed."""
    ratio: int = 400
    """Decompressed bytes per compressed byte, once a layer is larger than ``ratio_free_bytes``."""
    ratio_free_bytes: int = 1 * GIB
    entries: int = 1_000_000
    """Entries, implied directories, pieces of sparse files, hops over symbolic links and what whiteouts leave, of all layers together."""
    metadata_bytes: int = 256 * MIB
    """Names, targets and extended attributes of all entries together: they are held in memory."""
    file_bytes: int = 1 * TIB
    """Apparent size of one file, holes included."""


def shown(untrusted_name: bytes) -> str:
    """A name from an archive as it may stand in a message: quoted, printable, not too long."""
    text = untrusted_name.decode("utf-8", "backslashreplace")
    quoted = repr(text)
    return quoted if len(quoted) <= 200 else quoted[:150] + "..." + quoted[-40:]
