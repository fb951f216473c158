"""What was sent last, so that the next time only the difference is. It is an optimisation: the guest's own mark says whether it is still true."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Collection
from pathlib import Path

import msgspec

from ..host.files import write_atomically
from ..host.paths import private_directory
from .snapshot import Trees
from .working_tree import Files, FileState


class Sent(msgspec.Struct, frozen=True, kw_only=True):
    """What a guest has after a prepare."""

    id: str
    """Also in the guest, in ``.git/banger/prepared``."""
    root: str
    full: bool
    wanted: str
    branch: str
    commits: frozenset[str]
    """Commits that the guest has, when its history is shallow."""
    shallow: frozenset[str]
    tips: frozenset[str]
    blobs: frozenset[str]
    """Blobs that the user's index had and the wanted commit had not."""
    index: str
    """Digest of the user's index."""
    files: Files
    trees: Trees
    """Of the files as they were sent."""
    user: str = ""
    """Whose it is in the guest; "" = root."""


class SentStates:
    """The states of all machines, one file each in ``directory``."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def load(self, vm_id: str, guest_path: str, *, limit: int | None = None) -> Sent | None:
        """What was sent to this place, None when nothing is known, or when it takes more than ``limit`` bytes to say it."""
        try:
            with self._file(vm_id, guest_path).open("rb") as file:
                if limit is not None and os.fstat(file.fileno()).st_size > limit:
                    return None
                return msgspec.msgpack.decode(file.read(), type=Sent)
        except (OSError, msgspec.MsgspecError):
            return None

    def save(self, vm_id: str, guest_path: str, sent: Sent) -> None:
        """Remember what was sent."""
        private_directory(self._directory)
        write_atomically(self._file(vm_id, guest_path), msgspec.msgpack.encode(sent), durable=False)

    def forget(self, vm_id: str, guest_path: str) -> None:
        """What was sent there is no more."""
        self._file(vm_id, guest_path).unlink(missing_ok=True)

    def forget_others(self, vm_ids: Collection[str]) -> None:
        """Drop what belongs to machines that are no more."""
        for path in self._directory.glob("*.*"):
            if path.name.partition(".")[0] not in vm_ids:
                with contextlib.suppress(OSError):
                    path.unlink()

    def _file(self, vm_id: str, guest_path: str) -> Path:
        return self._directory / f"{vm_id}.{hashlib.sha256(guest_path.encode('utf-8', 'surrogateescape')).hexdigest()[:16]}"


def count_changed(sent: Sent) -> int:
    """How many of the files that were sent have another size or time now, or are gone. Where a time could not be trusted, sizes alone tell."""
    top = os.fsencode(sent.root)
    return sum(_has_changed(top + b"/" + path, state) for path, state in sent.files.items())


def _has_changed(path: bytes, state: FileState) -> bool:
    try:
        info = os.lstat(path)
    except OSError:
        return True
    return info.st_size != state.size or state.mtime_ns not in (-1, info.st_mtime_ns)
