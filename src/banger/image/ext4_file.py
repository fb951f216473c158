"""Files that hold an ext4: recognised, checked, copied with their holes."""

from __future__ import annotations

import asyncio
import shlex
import struct
from functools import cache
from pathlib import Path
from typing import BinaryIO, Final

from ..host.files import open_regular
from ..host.run import run
from ..model.errors import BadRequest

BLOCK: Final = 64 * 1024
"""Granularity of holes."""
HEAD_BYTES: Final = 2048
"""So much of a file tells whether it is an ext4."""
_SUPERBLOCK: Final = 1024
_MAGIC: Final = (0x38, 0xEF53)
_NEEDS_RECOVERY: Final = 0x4
"""Documentation/filesystems/ext4/super.rst, s_feature_incompat: the journal has to be replayed first."""
_LARGEST_BLOCK: Final = 2
"""As the superblock has it: 4 KiB, the page size, beyond which Linux 6.1 mounts nothing."""
_CHECK_SECONDS: Final = 900.0
_UNSOUND: Final = 4 | 8
"""e2fsck(8), exit code: errors left uncorrected, operational error."""


def is_ext4(untrusted_head: bytes) -> bool:
    """Whether a file that begins so holds an ext2, ext3 or ext4."""
    return len(untrusted_head) >= HEAD_BYTES and struct.unpack_from("<H", untrusted_head, _SUPERBLOCK + _MAGIC[0])[0] == _MAGIC[1]


async def check_ext4(file: Path) -> None:
    """Raises BadRequest unless ``file`` is a whole and sound ext4, cleanly unmounted, that can be mounted read-only; MissingTool, CommandFailed."""
    await asyncio.to_thread(check_superblock, file)
    done = await run(["e2fsck", "-f", "-n", "--", file], deadline=_CHECK_SECONDS, allowed=range(256))
    if done.status & _UNSOUND:
        first = _complaint(done.stdout.decode(errors="replace"))
        raise BadRequest(f"{file} is a damaged file system: {first}", hint=f"repair it with e2fsck -f {shlex.quote(str(file))}, or make it anew")


def _complaint(output: str) -> str:
    """The first line in which e2fsck says what is wrong."""
    lines = [line.strip() for line in output.splitlines() if line.strip() and not line.startswith(("e2fsck ", "Pass "))]
    return "".join(c for c in (lines or ["e2fsck does not say why"])[0] if c.isprintable())[:200]


def check_superblock(file: Path) -> None:
    """What can be seen at once. Raises BadRequest as ``check_ext4`` does."""
    with open_regular(file) as stream:
        untrusted_head = stream.read(HEAD_BYTES)
    if not is_ext4(untrusted_head):
        raise BadRequest(f"{file} is not an ext4 file system", hint="make one with mke2fs -d TREE, or give a tar of the tree")
    low, log_size = struct.unpack_from("<I", untrusted_head, _SUPERBLOCK + 4)[0], struct.unpack_from("<I", untrusted_head, _SUPERBLOCK + 0x18)[0]
    incompatible = struct.unpack_from("<I", untrusted_head, _SUPERBLOCK + 0x60)[0]
    high = struct.unpack_from("<I", untrusted_head, _SUPERBLOCK + 0x150)[0] if incompatible & 0x80 else 0
    if incompatible & _NEEDS_RECOVERY:
        raise BadRequest(f"{file} was not unmounted cleanly", hint=f"e2fsck -f {file}")
    if log_size > _LARGEST_BLOCK:
        raise BadRequest(f"{file} has blocks that are larger than a page, or a damaged superblock", hint="mke2fs -b 4096")
    if not low | high:
        raise BadRequest(f"{file} has no blocks: its superblock is damaged")
    if (((high << 32) | low) * (1024 << log_size)) > file.stat().st_size:
        raise BadRequest(f"{file} is cut short: its file system is larger than the file")


def copy_sparse(out: BinaryIO, block: bytes) -> None:
    """Append ``block`` (at most BLOCK bytes), as a hole when it is all zeros. The caller truncates to the final size at the end."""
    if block == zeros(len(block)):
        out.seek(len(block), 1)
    else:
        out.write(block)


@cache
def zeros(size: int) -> bytes:
    """So many zero bytes."""
    return bytes(size)
