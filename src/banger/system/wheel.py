"""Wheels (https://packaging.python.org/en/latest/specifications/binary-distribution-format/): which fit this host, and a strict way to unpack one.

What is unpacked is exactly what the wheel's RECORD lists, and nothing else is accepted: no links, no way out, no programs or data for elsewhere.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import os
import platform
import stat
import sys
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Final

from ..host.files import explain_no_space
from ..model.errors import BangerError

MAX_MEMBERS: Final = 20_000
MAX_UNPACKED_BYTES: Final = 512 * 1024 * 1024
_MAX_RECORD_BYTES: Final = 4 * 1024 * 1024
_CHUNK: Final = 256 * 1024
_ENCRYPTED: Final = 0x1
_OLD_PLATFORMS: Final = {"manylinux1": 5, "manylinux2010": 12, "manylinux2014": 17}
"""Names that came before those with a version of glibc, and that version (PEP 600)."""


def python_version() -> str:
    """Of the interpreter that runs this, as releases name it: "3.11"."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def check_fits(name: str) -> None:
    """Raises BangerError unless the wheel of that file name can be used by this Python on this host."""
    parts = name.removesuffix(".whl").split("-")
    if len(parts) not in (5, 6):
        raise BangerError(f"{name} is not named like a wheel", hint="tell whoever makes the releases")
    pythons, abis, platforms = (part.split(".") for part in parts[-3:])
    if not any(_interpreter_fits(one, abi) for one in pythons for abi in abis) or not any(map(_platform_fits, platforms)):
        raise BangerError(
            f"{name} is not made for Python {python_version()} on {platform.machine()} with glibc 2.{_glibc_minor()}", hint="tell whoever makes the releases"
        )


def _interpreter_fits(python: str, abi: str) -> bool:
    minor = sys.version_info.minor
    if python == f"cp3{minor}":
        return abi in (f"cp3{minor}", "abi3", "none")
    if python.startswith("cp3") and python[3:].isdecimal():
        return abi == "abi3" and int(python[3:]) <= minor
    return abi == "none" and (python == "py3" or (python.startswith("py3") and python[3:].isdecimal() and int(python[3:]) <= minor))


def _platform_fits(tag: str) -> bool:
    if tag == "any":
        return True
    name = tag.removesuffix(f"_{platform.machine()}")
    if name == tag:
        return False
    if name.startswith("manylinux_2_") and name[12:].isdecimal():
        return int(name[12:]) <= _glibc_minor()
    return name == "linux" or _OLD_PLATFORMS.get(name, 1000) <= _glibc_minor()


def _glibc_minor() -> int:
    """0 with another C library, which no name of a wheel of ours stands for."""
    name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    return int(version.split(".")[1]) if name == "glibc" else 0


def unpack_wheel(path: Path, target: Path) -> None:
    """Unpack an untrusted wheel into the directory ``target``, where other wheels may be already. Raises BangerError; throw ``target`` away then."""
    try:
        with zipfile.ZipFile(path) as archive, explain_no_space("unpacking a release", target):
            members = _members(archive)
            record = _record(archive, members)
            for name, info in members.items():
                _extract(archive, info, target / name, record.get(name))
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError) as error:
        raise BangerError(f"{path.name} is not a usable wheel: {error}", hint="nothing was installed; tell whoever makes the releases") from error


def _members(archive: zipfile.ZipFile) -> dict[PurePosixPath, zipfile.ZipInfo]:
    """The files by name. Raises ValueError for anything that a wheel of ours has no need of."""
    infos = archive.infolist()
    if len(infos) > MAX_MEMBERS or sum(info.file_size for info in infos) > MAX_UNPACKED_BYTES:
        raise ValueError(f"it has more than {MAX_MEMBERS} members or {MAX_UNPACKED_BYTES >> 20} MiB")
    members: dict[PurePosixPath, zipfile.ZipInfo] = {}
    for info in infos:
        name = _safe_name(info)
        if info.is_dir():
            continue
        if name in members:
            raise ValueError(f"{name} is there twice")
        members[name] = info
    return members


def _safe_name(info: zipfile.ZipInfo) -> PurePosixPath:
    untrusted = info.orig_filename
    parts = untrusted.removesuffix("/").split("/")
    if not untrusted.isprintable() or "\\" in untrusted or any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"a member is named {untrusted[:200]!r}")
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in ((0, stat.S_IFDIR) if info.is_dir() else (0, stat.S_IFREG)):
        raise ValueError(f"{untrusted} is no regular file")
    if info.flag_bits & _ENCRYPTED or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{untrusted} is packed in an unusual way")
    if parts[0].endswith(".data"):
        raise ValueError(f"{untrusted} is for elsewhere")
    return PurePosixPath(untrusted)


def _record(archive: zipfile.ZipFile, members: dict[PurePosixPath, zipfile.ZipInfo]) -> dict[PurePosixPath, str]:
    """Name -> ``sha256=...`` of RECORD. Raises ValueError unless it lists exactly the members, itself without a hash."""
    found = [name for name in members if len(name.parts) == 2 and name.parts[0].endswith(".dist-info") and name.name == "RECORD"]
    if len(found) != 1 or members[found[0]].file_size > _MAX_RECORD_BYTES:
        raise ValueError("it has no proper RECORD")
    rows = [row for row in csv.reader(io.StringIO(archive.read(members[found[0]]).decode())) if row]
    record = {PurePosixPath(row[0]): row[1] if len(row) == 3 else "" for row in rows}
    if len(record) != len(rows) or record.keys() != members.keys():
        different = sorted(map(str, record.keys() ^ members.keys()))
        raise ValueError(f"RECORD does not list what is in it: {', '.join(different[:3]) or 'a name comes twice'}")
    if unhashed := [name for name, digest in record.items() if name != found[0] and not digest.startswith("sha256=")]:
        raise ValueError(f"RECORD has no SHA-256 of {unhashed[0]}")
    del record[found[0]]
    return record


def _extract(archive: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path, digest: str | None) -> None:
    """One member, of at most its declared size. Raises ValueError when its hash is another than ``digest``, or the file is there already."""
    target.parent.mkdir(parents=True, exist_ok=True)
    total = hashlib.sha256()
    executable = bool(info.external_attr >> 16 & 0o100)
    try:
        with archive.open(info) as packed, target.open("xb") as file:
            while chunk := packed.read(_CHUNK):
                total.update(chunk)
                file.write(chunk)
            os.fchmod(file.fileno(), 0o755 if executable else 0o644)
    except FileExistsError:
        raise ValueError(f"{info.filename} is in another wheel too") from None
    found = "sha256=" + base64.urlsafe_b64encode(total.digest()).rstrip(b"=").decode()
    if digest is not None and digest != found:
        raise ValueError(f"{info.filename} is not what RECORD says")
