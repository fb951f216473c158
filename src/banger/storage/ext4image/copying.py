"""Moving file content from descriptor to descriptor inside the kernel."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Final

from ...model.errors import BangerError

_CHUNK: Final = 16 * 1024 * 1024
_NOT_HERE: Final = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM)


def copy_range(source: int, source_offset: int, target: int, target_offset: int, size: int, tick: Callable[[int], None]) -> None:
    """Copy ``size`` bytes; ``tick`` hears how many after each piece and may raise. Raises BangerError when the source ends early."""
    while size:
        done = _copy_some(source, source_offset, target, target_offset, min(size, _CHUNK))
        if not done:
            raise BangerError("a layer became shorter while it was read", hint="try again")
        source_offset, target_offset, size = source_offset + done, target_offset + done, size - done
        tick(done)


def _copy_some(source: int, source_offset: int, target: int, target_offset: int, size: int) -> int:
    try:
        return os.copy_file_range(source, target, size, source_offset, target_offset)
    except OSError as error:
        if error.errno not in _NOT_HERE:
            raise
    # Other file systems, or one that cannot: copy_file_range(2).
    os.lseek(target, target_offset, os.SEEK_SET)
    return os.sendfile(target, source, source_offset, size)
