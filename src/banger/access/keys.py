"""ssh keys, made by ssh-keygen."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..host.files import STAGING_SUFFIX
from ..host.run import run
from ..model.errors import CommandFailed

_DEADLINE: Final = 30.0
_KIND: Final = b"ssh-ed25519 "


@dataclass(frozen=True, slots=True)
class KeyPair:
    """An ed25519 key: the private file's content, and the public half as ``ssh-ed25519 AAAA...`` without a comment."""

    private: bytes
    public: str


async def ensure_key(path: Path, comment: str) -> KeyPair:
    """The key in ``path`` (mode 0600; its public half in ``path``.pub), made first when there is none.

    A directory has one maker at a time. Raises MissingTool (ssh-keygen), CommandFailed, OSError.
    """
    if not path.exists():
        await _make(path, comment)
    return await asyncio.to_thread(_read, path)


def remove_half_made(path: Path) -> None:
    """Remove what an interrupted ``ensure_key`` left beside ``path``."""
    staged = _staged(path)
    for half in (staged, _public(staged)):
        half.unlink(missing_ok=True)


async def _make(path: Path, comment: str) -> None:
    remove_half_made(path)
    staged = _staged(path)
    await run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", staged], deadline=_DEADLINE)
    os.rename(_public(staged), _public(path))
    os.rename(staged, path)  # last: a private half that is there is complete


def _read(path: Path) -> KeyPair:
    public = _public(path).read_bytes()
    if not public.startswith(_KIND):
        raise CommandFailed(f"{_public(path)} is no ed25519 key", hint=f"remove {path} and {_public(path)}; new ones are made at the next start")
    return KeyPair(private=path.read_bytes(), public=" ".join(public.decode().split()[:2]))


def _staged(path: Path) -> Path:
    return path.with_name(path.name + STAGING_SUFFIX)


def _public(path: Path) -> Path:
    return path.with_name(path.name + ".pub")
