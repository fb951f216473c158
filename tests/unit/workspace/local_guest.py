"""A directory of this host that stands where a guest is: same programs, same unpacking rules, no machine."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from banger.model.errors import GuestError
from banger.workspace.guest import OUTPUT_LIMIT, Output
from banger.workspace.records import Record


@dataclass
class LocalGuest:
    """``home`` is the home directory of the guest's user."""

    home: Path
    path: str = os.environ["PATH"]
    sent: list[bytes] = field(default_factory=list)
    """Paths of the records of the last unpack."""

    def run(self, argv: Sequence[str], *, into: IO[bytes] | None = None, limit: int = OUTPUT_LIMIT) -> Output:
        environment = {"PATH": self.path, "HOME": str(self.home), "LANG": "C.UTF-8", "GIT_CONFIG_NOSYSTEM": "1"}
        done = subprocess.run(list(map(os.fsencode, argv)), stdin=subprocess.DEVNULL, capture_output=True, env=environment, cwd=self.home)
        if len(done.stdout) > limit:
            raise GuestError("too much output")
        if into is not None:
            into.write(done.stdout)
        return Output(done.returncode, b"" if into is not None else done.stdout, done.stderr)

    def unpack(self, records: Iterable[Record], destination: str, *, uid: int, gid: int) -> None:
        top = os.fsencode(destination)
        os.makedirs(top, exist_ok=True)
        self.sent = []
        for record in records:
            self.sent.append(record.path)
            _make(top, record)


def _make(top: bytes, record: Record) -> None:
    path = os.path.join(top, record.path)
    real = _is_reached_without_links(top, record.path)
    assert real or record.kind in ("remove", "prune"), record.path
    match record.kind:
        case "directory":
            if os.path.lexists(path) and (os.path.islink(path) or not os.path.isdir(path)):
                os.unlink(path)
            os.makedirs(path, mode=record.mode, exist_ok=True)
        case "remove" if real:
            shutil.rmtree(path) if os.path.isdir(path) and not os.path.islink(path) else _unlink(path)
        case "prune" if real:
            with suppress(OSError):
                os.rmdir(path)
        case "symlink":
            _unlink(path)
            os.symlink(record.target, path)
        case "regular":
            content = b"".join(record.content)
            assert len(content) == record.size
            _unlink(path)
            with open(path, "xb") as file:
                file.write(content)
            os.chmod(path, record.mode)
    if record.kind in ("symlink", "regular"):
        os.utime(path, ns=(record.mtime_ns, record.mtime_ns), follow_symlinks=False)


def _is_reached_without_links(top: bytes, path: bytes) -> bool:
    while path := path.rpartition(b"/")[0]:
        if os.path.islink(os.path.join(top, path)):
            return False
    return True


def _unlink(path: bytes) -> None:
    if os.path.lexists(path):
        os.unlink(path)
