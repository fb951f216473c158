"""What is in a tree, file by file, so that two trees can be compared: path, type, mode, owner, size, xattrs, target, content, device, hard links, mtime."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

from banger.host.run import SEARCH_PATH


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One path."""

    type: int
    mode: int
    uid: int
    gid: int
    size: int
    """Of files and symbolic links."""
    mtime_ns: int
    xattrs: Mapping[str, bytes]
    target: bytes
    content: str
    device: int
    names: tuple[bytes, ...]
    """All paths of the inode, when there are several."""


def read_tree(root: Path) -> dict[bytes, Item]:
    """Every path below ``root``, and the root as ``b""``."""
    paths = sorted(_paths(bytes(root)))
    names: dict[int, list[bytes]] = defaultdict(list)
    for path in paths:
        info = os.lstat(_below(root, path))
        if info.st_nlink > 1 and not stat.S_ISDIR(info.st_mode):
            names[info.st_ino].append(path)
    return {path: _item(_below(root, path), names) for path in paths}


@contextmanager
def mounted(image: Path) -> Iterator[Path]:
    """The content of an ext4 image, read-only; wants root."""
    place = image.with_name(image.name + ".mounted")
    place.mkdir()
    try:
        _run("mount", "-o", "loop,ro", str(image), str(place))
        try:
            yield place
        finally:
            _run("umount", str(place))
    finally:
        place.rmdir()


def read_image(image: Path) -> dict[bytes, Item]:
    """Every path in an ext4 image that e2fsck finds nothing to complain of; lost+found is left out when it is empty."""
    check_image(image)
    with mounted(image) as root:
        tree = read_tree(root)
    if not any(path.startswith(b"lost+found/") for path in tree) and tree[b"lost+found"].mtime_ns == 0:
        del tree[b"lost+found"]
    return tree


def check_image(image: Path) -> None:
    """Fails unless e2fsck is content."""
    done = subprocess.run(["e2fsck", "-fn", image], env={"PATH": SEARCH_PATH, "LC_ALL": "C"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[:3000] + done.stderr[-300:]
    assert "IGNORED" not in done.stdout and "no\n" not in done.stdout, done.stdout[:3000]


def differences(ours: Mapping[bytes, Item], theirs: Mapping[bytes, Item]) -> list[str]:
    """Everything that is not the same.

    The time of a directory that no entry describes is 1970 with us and that of the unpacking elsewhere; so is the root's, where unpackers have their own files.
    """
    found = [f"only ours: {path!r}" for path in ours.keys() - theirs.keys()] + [f"only theirs: {path!r}" for path in theirs.keys() - ours.keys()]
    for path in sorted(ours.keys() & theirs.keys()):
        for field in fields(Item):
            one, two = getattr(ours[path], field.name), getattr(theirs[path], field.name)
            unknown = field.name == "mtime_ns" and (path == b"" or (one == 0 and stat.S_ISDIR(ours[path].type)))
            if one != two and not unknown:
                found.append(f"{path!r}: {field.name} is {one!r} with us, {two!r} with them")
    return found


def _paths(root: bytes) -> Iterator[bytes]:
    """Of any names and any depth."""
    yield b""
    pending = [b""]
    while pending:
        above = pending.pop()
        with os.scandir(root + b"/" + above) as entries:
            for entry in entries:
                path = above + b"/" + entry.name if above else entry.name
                yield path
                if entry.is_dir(follow_symlinks=False):
                    pending.append(path)


def _below(root: Path, path: bytes) -> bytes:
    return bytes(root) + b"/" + path


def _item(path: bytes, names: Mapping[int, list[bytes]]) -> Item:
    info = os.lstat(path)
    kind = stat.S_IFMT(info.st_mode)
    return Item(
        type=kind,
        mode=stat.S_IMODE(info.st_mode),
        uid=info.st_uid,
        gid=info.st_gid,
        size=info.st_size if kind in {stat.S_IFREG, stat.S_IFLNK} else 0,
        mtime_ns=info.st_mtime_ns,
        xattrs={name: os.getxattr(path, name, follow_symlinks=False) for name in os.listxattr(path, follow_symlinks=False)},
        target=os.readlink(path) if kind == stat.S_IFLNK else b"",
        content=_hash(path) if kind == stat.S_IFREG else "",
        device=info.st_rdev if kind in {stat.S_IFCHR, stat.S_IFBLK} else 0,
        names=tuple(names.get(info.st_ino, ())) if kind != stat.S_IFDIR else (),
    )


def _hash(path: bytes) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True, env={"PATH": SEARCH_PATH}, capture_output=True)
