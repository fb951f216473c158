"""A program that finishes an unpacked root file system: removes, writes and links what its plan says, and measures the tree.

Run by path inside the namespace as root (``python -I finish_tree.py TREE``), so standard library only. The plan is JSON on standard input, with
``remove`` (absolute globs), ``files`` (path -> text) and ``links`` (path -> target); the answer is JSON on standard output. It works in a chroot:
links in the tree cannot lead it outside.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import sys
from pathlib import Path

ROOT = Path("/")
BLOCK_BYTES = 4096
_FAST_LINK_BYTES = 60
"""Longest target of a symbolic link that ext4 keeps in the inode itself."""


def finish(plan: dict[str, object]) -> dict[str, object]:
    """Apply the plan to the present root directory and describe the result."""
    for pattern in _texts(plan["remove"]):
        for path in list(ROOT.glob(pattern.lstrip("/"))):
            remove(path)
    for name, content in _pairs(plan["files"]):
        write(Path(name), content)
    for name, target in _pairs(plan["links"]):
        make_room(Path(name))
        Path(name).symlink_to(target)
    mark_updated()
    blocks, inodes = measure(ROOT)
    return {"blocks": blocks, "inodes": inodes, "packages": packages(Path("/var/lib/dpkg/status"))}


def remove(path: Path) -> None:
    """Remove a file or a directory with its content; success when there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def make_room(path: Path) -> None:
    """Make the parent directories of ``path`` and remove what is in its place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    remove(path)


def write(path: Path, content: str) -> None:
    """Write a file of mode 0644."""
    make_room(path)
    path.write_text(content, encoding="utf-8")
    path.chmod(0o644)


def mark_updated() -> None:
    """Tell systemd that its caches in /etc and /var are as new as /usr, so that no first boot rebuilds them (systemd.unit(5), ConditionNeedsUpdate=)."""
    newest = Path("/usr").stat().st_mtime_ns
    for path in (Path("/etc/.updated"), Path("/var/.updated")):
        write(path, f"TIMESTAMP_NSEC={newest}\n")
        os.utime(path, ns=(newest, newest))


def measure(root: Path) -> tuple[int, int]:
    """Blocks of content (files, directories, long links) and inodes below ``root``; a file with several names counts once."""
    first = root.lstat()
    blocks, seen, pending = _blocks(first.st_size), {first.st_ino}, [str(root)]
    while pending:
        for entry in os.scandir(pending.pop()):
            info = entry.stat(follow_symlinks=False)
            if info.st_ino in seen:
                continue
            seen.add(info.st_ino)
            fast = stat.S_ISLNK(info.st_mode) and info.st_size < _FAST_LINK_BYTES
            blocks += 0 if fast else _blocks(info.st_size)
            if stat.S_ISDIR(info.st_mode):
                pending.append(entry.path)
    return blocks, len(seen)


def packages(status: Path) -> dict[str, str]:
    """Name -> version of every package in dpkg's status file; empty when there is none."""
    found: dict[str, str] = {}
    name = ""
    for line in status.read_text(encoding="utf-8", errors="replace").splitlines() if status.exists() else ():
        key, _, value = line.partition(": ")
        if key == "Package":
            name = value
        elif key == "Version":
            found[name] = value
    return found


def _blocks(size: int) -> int:
    return -(-size // BLOCK_BYTES)


def _texts(value: object) -> list[str]:
    assert isinstance(value, list)
    return value


def _pairs(value: object) -> list[tuple[str, str]]:
    assert isinstance(value, dict)
    return list(value.items())


if __name__ == "__main__":
    PLAN = json.load(sys.stdin)
    os.chroot(sys.argv[1])
    os.chdir("/")
    os.umask(0o022)
    json.dump(finish(PLAN), sys.stdout)
