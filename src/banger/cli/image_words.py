"""What users write for an image, on its way to the daemon: paths become absolute, and what comes through a pipe becomes a file."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..client.discovery import find_layout
from ..host.files import explain_no_space
from ..host.paths import private_directory
from ..model.errors import BadRequest, NotFound

if TYPE_CHECKING:
    from ..api.image_types import CatalogKernel
    from ..client import Client
    from ..model.records import KernelRecord

_PATHS: Final = ("/", "./", "../", "~/")
_TRANSPORTS: Final = ("oci:", "docker-archive:")
MAX_WORD: Final = 4096


def absolute(word: str) -> str:
    """The word with its path, if it is or holds one, made absolute. Raises BadRequest for what cannot mean anything."""
    if not word or len(word) > MAX_WORD or not word.isprintable():
        raise BadRequest(f"bad image {word[:100]!r}", hint="write a name, a reference such as docker.io/library/alpine:3, or a path such as ./rootfs.tar")
    for transport in _TRANSPORTS:
        if word.startswith(transport):
            path, colon, tag = word.removeprefix(transport).partition(":")
            return f"{transport}{path if path in ('', '-') else absolute_path(path)}{colon}{tag}"
    return absolute_path(word) if word.startswith(_PATHS) or word in (".", "..") else word


def absolute_path(text: str) -> str:
    """The file that ``text`` names for the caller."""
    return os.path.normpath(Path(text).expanduser().absolute())


@contextmanager
def piped() -> Iterator[Path]:
    """A file below the instance's cache with everything that stdin gives; it is removed afterwards. Raises BadRequest on a terminal."""
    if sys.stdin.isatty():
        raise BadRequest("stdin is a terminal", hint="pipe a file into it, or give a path instead of -")
    with _spool_file() as path:
        with explain_no_space("keeping what comes through the pipe", path.parent), path.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file, 1 << 20)
        yield path


@contextmanager
def piped_for(client: Client, kernel: str | None) -> Iterator[Path]:
    """As ``piped``, unless the image's kernel is unknown: then NotFound, before gigabytes have been read that are good for nothing."""
    if kernel is not None and kernel not in _kernels(client):
        raise NotFound(f"no kernel {kernel!r}", hint="see: banger kernel list --available")
    with piped() as path:
        yield path


def _kernels(client: Client) -> set[str]:
    here: tuple[KernelRecord, ...] = client.call("kernel.list")
    there: tuple[CatalogKernel, ...] = client.call("kernel.catalog")
    return {one.name for one in here} | {one.name for one in there}


@contextmanager
def to_stdout() -> Iterator[Path]:
    """A path below the instance's cache; what is there at the end goes to stdout. Raises BadRequest on a terminal."""
    if sys.stdout.isatty():
        raise BadRequest("stdout is a terminal", hint="redirect it, or give -o FILE")
    with _spool_file() as path:
        yield path
        with path.open("rb") as file:
            shutil.copyfileobj(file, sys.stdout.buffer, 1 << 20)
        sys.stdout.buffer.flush()


@contextmanager
def _spool_file() -> Iterator[Path]:
    directory = find_layout().spool
    private_directory(directory)
    with tempfile.TemporaryDirectory(dir=directory) as name:
        yield Path(name, "image")
