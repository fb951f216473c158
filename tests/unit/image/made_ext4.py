"""A real, tiny ext4."""

from __future__ import annotations

import subprocess
from pathlib import Path

SIZE = 1024 * 1024


def make_ext4(path: Path) -> Path:
    """Make the new file ``path``."""
    subprocess.run(["/sbin/mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-b", "1024", path, f"{SIZE // 1024}k"], check=True, stdin=subprocess.DEVNULL)
    return path
