"""Who may open the KVM device."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

KVM_DEVICE: Final = Path("/dev/kvm")
_OTHERS: Final = stat.S_IROTH | stat.S_IWOTH
_GROUP: Final = stat.S_IRGRP | stat.S_IWGRP


def kvm_groups(info: os.stat_result) -> tuple[int, ...] | None:
    """Supplementary groups with which a process of a uid of its own may open the device; None when none helps. Never root's own group."""
    if info.st_mode & _OTHERS == _OTHERS:
        return ()
    if info.st_gid != 0 and info.st_mode & _GROUP == _GROUP:
        return (info.st_gid,)
    return None
