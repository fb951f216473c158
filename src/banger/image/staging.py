"""Directories that appear whole or not at all: made under another name by the holder of a lock, then renamed."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import re
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from ..host.files import STAGING_SUFFIX, publish_directory, sync_file, write_atomically
from ..host.locks import drop_lock, locked_async, try_passing_lock
from ..host.run import run
from ..host.threads import run_to_end
from ..model.errors import BangerError
from ..model.names import check_artifact_name
from . import namespace

log = logging.getLogger(__name__)

MANIFEST: Final = "manifest.json"
_STAGED: Final = re.compile(r"(?P<name>.+)\.[0-9a-f]{32}" + re.escape(STAGING_SUFFIX))
_FEW_FILES: Final = 16
"""So many are made durable one by one: syncing the whole file system waits for what everybody else has written, too."""
_REMOVAL_ATTEMPTS: Final = 20
_REMOVAL_INTERVAL: Final = 0.25
_NEW_SECONDS: Final = 3600.0
_FINISHED: Final = re.compile(r"[0-9a-f]{32}")


@asynccontextmanager
async def name_lock(parent: Path, name: str) -> AsyncIterator[None]:
    """Hold the lock for making ``name`` below ``parent``, against other processes; waiting can be cancelled. What died holding it is cleaned up."""
    parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    async with locked_async(_lock_file(parent, name)):
        for path in parent.glob(f"*{STAGING_SUFFIX}"):
            if (match := _STAGED.fullmatch(path.name)) and match["name"] == name:
                await discard(path)
        yield


@asynccontextmanager
async def staged(parent: Path, name: str, identifier: str) -> AsyncIterator[Path]:
    """A fresh staging directory for ``identifier``; whatever of it is still there at the end is removed. The caller holds ``name``'s lock."""
    path = staging_path(parent, name, identifier)
    path.mkdir(mode=0o755)
    try:
        yield path
    finally:
        await discard(path)


def staging_path(parent: Path, name: str, identifier: str) -> Path:
    """The name that ``identifier`` has while it is not finished, or being removed; it tells whose lock protects it."""
    return parent / f"{check_artifact_name(name)}.{identifier}{STAGING_SUFFIX}"


async def publish(staging: Path, final: Path, manifest: Mapping[str, object]) -> None:
    """Give a finished staging directory its ``manifest.json`` and its name, such that it survives a crash whole."""
    write_atomically(staging / MANIFEST, json.dumps({"version": 1, **manifest}, indent=2).encode(), mode=0o644)
    files = [path for path in staging.rglob("*") if path.is_file() and not path.is_symlink()]
    if len(files) <= _FEW_FILES:
        await asyncio.gather(*(run_to_end(sync_file, path) for path in files))
    else:
        await run(["sync", "--file-system", staging], deadline=600)
    publish_directory(staging, final)


async def discard(path: Path) -> None:
    """Remove a directory of ours, whoever owns what is in it. A failure is logged: what remains is removed by the next start or build."""
    for patience in reversed(range(_REMOVAL_ATTEMPTS)):
        try:
            await namespace.remove(path)
            return
        except (OSError, BangerError) as error:
            # A download of a daemon that was killed a moment ago may still be writing.
            if patience and isinstance(error, OSError) and error.errno == errno.ENOTEMPTY:
                await asyncio.sleep(_REMOVAL_INTERVAL)
                continue
            log.warning("cannot remove what a build left", extra={"path": str(path), "error": str(error)})
            return


async def remove_leftovers(parent: Path) -> None:
    """Remove staging directories whose lock nobody holds. A finished one stays, known or not: a database that was put aside may come back.

    Also lock files that nobody holds, which only a daemon leaves that was killed.
    """
    for path in sorted(parent.iterdir()) if parent.is_dir() else ():
        if match := _STAGED.fullmatch(path.name):
            await _discard_unless_held(path, _lock_file(parent, match["name"]))
    for lock in parent.glob(".*.lock") if parent.is_dir() else ():
        _is_free(lock)


def find_leftovers(parent: Path, known: set[str]) -> list[Path]:
    """Staging directories whose lock nobody holds, and finished ones whose id no record has (``known``), unless they are so new that one may be stored yet."""
    found = []
    for path in sorted(parent.iterdir()) if parent.is_dir() else ():
        if match := _STAGED.fullmatch(path.name):
            if _is_free(_lock_file(parent, match["name"])):
                found.append(path)
        elif _FINISHED.fullmatch(path.name) and path.name not in known and time.time() - path.stat().st_mtime > _NEW_SECONDS:
            found.append(path)
    return found


async def remove_leftover(path: Path) -> None:
    """Remove one that ``find_leftovers`` has found, unless somebody holds its lock by now. Raises BangerError or OSError when something resists."""
    match = _STAGED.fullmatch(path.name)
    if match is None:
        await namespace.remove(path)
        return
    lock = _lock_file(path.parent, match["name"])
    if (held := try_passing_lock(lock)) is None:
        raise BangerError("somebody builds it by now")
    try:
        await namespace.remove(path)
    finally:
        drop_lock(lock, held)


def _is_free(lock: Path) -> bool:
    held = try_passing_lock(lock)
    if held is not None:
        drop_lock(lock, held)
    return held is not None


async def _discard_unless_held(path: Path, lock: Path) -> None:
    held = try_passing_lock(lock)
    if held is None:
        return
    try:
        await discard(path)
    finally:
        drop_lock(lock, held)


def _lock_file(parent: Path, name: str) -> Path:
    return parent / f".{check_artifact_name(name)}.lock"
