"""Small container images that boot: Debian's static busybox as the whole userland, or as the one file of an image without anything else."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.ociimages import OciImage, make_image, write_layout
from tests.registry import Registry

BUSYBOX = Path("/bin/busybox")
"""Of the package busybox-static."""
_WORDS = "cat echo env false id ls mkdir mount pwd sh sleep stat test touch true uname wc".split()


def busybox_tar(files: Mapping[str, str] | None = None, *, words: str = "") -> bytes:
    """A root file system of busybox and these text files, scripts among them executable; it has neither systemd nor Python, neither /root nor /tmp.

    ``words``: commands besides the usual ones.
    """
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        _add_directory(archive, "bin")
        _add_file(archive, "bin/busybox", BUSYBOX.read_bytes(), 0o755)
        for word in {*_WORDS, *words.split()}:
            _add_link(archive, f"bin/{word}", "busybox")
        texts = {"etc/os-release": 'ID=tiny\nNAME="busybox alone"\n', "etc/passwd": "root:x:0:0::/root:\napp:x:1000:1000::/srv:/bin/sh\n"} | dict(files or {})
        for directory in sorted({str(Path(name).parent) for name in texts} - {"."}):
            _add_directory(archive, directory)
        for name, text in texts.items():
            _add_file(archive, name, text.encode(), 0o755 if text.startswith("#!") else 0o644)
    return out.getvalue()


def scratch_tar() -> bytes:
    """One static program, which echoes: not even a directory."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        _add_file(archive, "echo", BUSYBOX.read_bytes(), 0o755)
    return out.getvalue()


def push(registry: Registry, directory: Path, name: str, tar: bytes, config: Mapping[str, Any] | None = None) -> OciImage:
    """Make an image of one layer and give it to the registry as ``name`` (``repository:tag``)."""
    image = make_image([tar], config=config)
    registry.push(f"{write_layout(directory, {'it': image})}:it", name)
    return image


def _add_directory(archive: tarfile.TarFile, name: str) -> None:
    member = tarfile.TarInfo(name)
    member.type, member.mode = tarfile.DIRTYPE, 0o755
    archive.addfile(member)


def _add_file(archive: tarfile.TarFile, name: str, content: bytes, mode: int) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(content), mode
    archive.addfile(member, io.BytesIO(content))


def _add_link(archive: tarfile.TarFile, name: str, target: str) -> None:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = tarfile.SYMTYPE, target
    archive.addfile(member)
