"""Hostile archives: what must hold for any bytes at all, and a way to make bytes that get far.

As a program (``python -m tests.tarfuzz -max_total_time=600 tests/corpus/tar``) it is an atheris target, where atheris is installed.
"""

from __future__ import annotations

import importlib
import os
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from banger.image.flatten.limits import Limits
from banger.image.flatten.tar import read_entries
from banger.image.flatten.tree import Tree
from banger.model.errors import BangerError
from banger.model.sizes import GIB
from banger.storage.ext4image.write import write_image

CORPUS = Path(__file__).parent / "corpus" / "tar"
LIMITS = Limits(entries=2000, metadata_bytes=256 * 1024, file_bytes=1 * GIB)
_PADDING = bytes(64 * 1024)
_INTERESTING = (
    b"\0",
    b"\xff",
    b"\x80",
    b"/",
    b"../",
    b"7",
    b"0",
    b" ",
    b"=",
    b"\n",
    b"\xff" * 8,
    b"\x80" + b"\0" * 10 + b"\x01",
    b".wh.",
    b"x",
    b"g",
    b"L",
    b"S",
)


class Archive:
    """Bytes, with room behind them for what their headers promise."""

    def __init__(self, content: bytes) -> None:
        self._content = content + _PADDING

    def read(self, offset: int, size: int) -> bytes:
        return self._content[offset : offset + size]

    def descriptor(self) -> int:
        """A file with the same content."""
        fd = os.memfd_create("archive", os.MFD_CLOEXEC)
        os.write(fd, self._content)
        return fd


def merge(content: bytes) -> Tree | None:
    """The tree in an archive, None when it is refused; whatever else is raised is a bug."""
    tree = Tree(LIMITS)
    try:
        tree.apply(read_entries(Archive(content), LIMITS), -1, whiteouts=True)
    except BangerError:
        return None
    return tree


def write(content: bytes, path: Path) -> bool:
    """Write the tree in an archive as an image; False when it is refused."""
    archive = Archive(content)
    fd = archive.descriptor()
    tree = Tree(LIMITS)
    try:
        tree.apply(read_entries(archive, LIMITS), fd, whiteouts=True)
        write_image(path, tree.root, label="fuzz")
    except BangerError:
        return False
    finally:
        os.close(fd)
    return True


def mutate(seeds: Sequence[bytes], dice: random.Random) -> bytes:
    """A seed, or two spliced, with some bytes changed; checksums are mostly put right again, or nothing would get past them."""
    content = bytearray(dice.choice(seeds))
    if dice.random() < 0.3:
        other = dice.choice(seeds)
        content = content[: 512 * dice.randrange(len(content) // 512 + 1)] + other[512 * dice.randrange(len(other) // 512 + 1) :]
    for _ in range(dice.choice((0, 1, 1, 2, 3, 8))):
        if content:
            at = dice.randrange(len(content))
            new = dice.choice(_INTERESTING) if dice.random() < 0.7 else dice.randbytes(dice.randrange(1, 12))
            content[at : at + len(new)] = new
    if dice.random() < 0.1:
        del content[dice.randrange(len(content) + 1) :]
    if dice.random() < 0.9:
        fix_checksums(content)
    return bytes(content)


def fix_checksums(content: bytearray) -> None:
    """Of all blocks that look like headers."""
    for at in range(0, len(content) - 511, 512):
        if content[at + 257 : at + 262] == b"ustar":
            content[at + 148 : at + 156] = b" " * 8
            content[at + 148 : at + 156] = b"%06o\0 " % sum(content[at : at + 512])


def seeds() -> list[bytes]:
    return [path.read_bytes() for path in sorted(CORPUS.glob("*.tar"))]


def _fuzz_with_atheris() -> None:
    # Not among the dependencies: it has no wheels for every Python.
    atheris: Any = importlib.import_module("atheris")
    atheris.instrument_all()

    def one_input(content: bytes) -> None:
        fixed = bytearray(content)
        fix_checksums(fixed)
        merge(bytes(fixed))

    with tempfile.TemporaryDirectory() as found:
        atheris.Setup([sys.argv[0], "-max_len=16384", found, *sys.argv[1:]], one_input)
        atheris.Fuzz()


if __name__ == "__main__":
    _fuzz_with_atheris()
