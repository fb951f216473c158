"""What a place with releases says of itself: ``manifest.json``, which is signed, and ``SHA256SUMS`` of each version, which is signed too.

manifest.json  manifest.json.sig           what versions there are, and of which files each consists
1.2.0/SHA256SUMS  1.2.0/SHA256SUMS.sig     the same hashes, as sha256sum(1) checks them
1.2.0/banger-1.2.0-py3-none-linux_x86_64.whl, and the wheels of exactly what it needs
"""

from __future__ import annotations

import re
from typing import Annotated, Final

import msgspec

from ..model.errors import BadRequest, BangerError, NotFound

SCHEMA_VERSION: Final = 1
MANIFEST: Final = "manifest.json"
SUMS: Final = "SHA256SUMS"
SIGNATURE_SUFFIX: Final = ".sig"
MAX_MANIFEST_BYTES: Final = 1024 * 1024
MAX_SUMS_BYTES: Final = 16 * 1024
MAX_SIGNATURE_BYTES: Final = 4 * 1024
MAX_RELEASE_BYTES: Final = 256 * 1024 * 1024
"""Of all files of a version for one Python together."""
_VERSION: Final = re.compile(r"(\d{1,6})\.(\d{1,6})(?:\.(\d{1,6}))?(?:(a|b|rc)(\d{1,6}))?(?:\.dev(\d{1,6}))?")
_STAGES: Final = {"a": 0, "b": 1, "rc": 2, None: 3}

Version = Annotated[str, msgspec.Meta(pattern=rf"^{_VERSION.pattern}\Z", max_length=64)]
FileName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+!-]*\.whl\Z", max_length=200)]
Digest = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]


class ReleaseFile(msgspec.Struct, frozen=True):
    """A wheel."""

    name: FileName
    size: Annotated[int, msgspec.Meta(ge=1, le=MAX_RELEASE_BYTES)]
    sha256: Digest


class Release(msgspec.Struct, frozen=True):
    """A version."""

    released_at: str
    """RFC 3339, UTC."""
    files: Annotated[tuple[ReleaseFile, ...], msgspec.Meta(max_length=500)]
    pythons: dict[str, tuple[FileName, ...]]
    """For each Python ("3.11") the files that make up the program there."""
    units: Digest
    """Of what the units are made from: another one means that the update writes them anew."""
    units_changed: bool
    """Whether they are others than those of the version before, for people."""
    min_from: Version = "0.0"
    """The oldest version that can be updated to this one without another between."""

    def files_for(self, python: str) -> tuple[ReleaseFile, ...]:
        """What to download for that Python. Raises NotFound, or BangerError when it is too much or not listed."""
        if python not in self.pythons:
            raise NotFound(
                f"this release is made for Python {', '.join(sorted(self.pythons))}, and this host has {python}", hint="--to VERSION names another release"
            )
        known = {file.name: file for file in self.files}
        if missing := [name for name in self.pythons[python] if name not in known]:
            raise BangerError(f"{MANIFEST} names {missing[0]} but does not describe it", hint="tell whoever makes the releases")
        files = tuple(known[name] for name in dict.fromkeys(self.pythons[python]))
        if sum(file.size for file in files) > MAX_RELEASE_BYTES:
            raise BangerError(f"this release is larger than {MAX_RELEASE_BYTES >> 20} MiB", hint="tell whoever makes the releases")
        return files


class Manifest(msgspec.Struct, frozen=True):
    """``manifest.json``."""

    schema_version: int
    latest_stable: Version
    versions: Annotated[dict[Version, Release], msgspec.Meta(max_length=1000)]

    def release(self, version: str) -> Release:
        """Raises NotFound for a version that is not there."""
        if version not in self.versions:
            raise NotFound(f"there is no release {version}", hint=f"there are {', '.join(sorted(self.versions, key=version_key)[-10:])}")
        return self.versions[version]


class _Schema(msgspec.Struct):
    schema_version: int


def parse_manifest(untrusted: bytes) -> Manifest:
    """The manifest; what it says that is not known here is left alone. Raises BangerError for another schema and for what is not a manifest."""
    try:
        schema = msgspec.json.decode(untrusted, type=_Schema).schema_version
        if schema != SCHEMA_VERSION:
            raise BangerError(
                f"{MANIFEST} has schema {schema}, and this banger knows {SCHEMA_VERSION}", hint="install the new version by hand: docs/system.md, Update"
            )
        return msgspec.json.decode(untrusted, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BangerError(f"{MANIFEST} cannot be understood: {error}", hint="is it the right address?") from error


def parse_sums(untrusted: bytes) -> dict[str, str]:
    """``SHA256SUMS``: file -> hex digest. Raises BangerError."""
    sums: dict[str, str] = {}
    for line in untrusted.decode(errors="replace").splitlines():
        match = re.fullmatch(r"([0-9a-f]{64}) [ *]([A-Za-z0-9][A-Za-z0-9_.+!-]*)", line)
        if match is None or match[2] in sums:
            raise BangerError(f"{SUMS} cannot be understood: {line[:100]!r}", hint="tell whoever makes the releases")
        sums[match[2]] = match[1]
    return sums


def check_sums(sums: dict[str, str], files: tuple[ReleaseFile, ...]) -> None:
    """Raises BangerError unless both signed documents say the same of every file."""
    if different := [file.name for file in files if sums.get(file.name) != file.sha256]:
        raise BangerError(f"{SUMS} and {MANIFEST} do not agree about {different[0]}", hint="tell whoever makes the releases")


def version_key(version: str) -> tuple[int, ...]:
    """What versions are ordered by (https://packaging.python.org/en/latest/specifications/version-specifiers/, of which ours use a part).

    Raises BadRequest for one that is none of ours.
    """
    match = _VERSION.fullmatch(version)
    if match is None:
        raise BadRequest(f"{version[:64]!r} is not a version", hint="for example 1.2.0")
    major, minor, patch, stage, number, development = match.groups()
    # 1.0.dev1 comes before 1.0a1, and 1.0a1.dev1 before 1.0a1.
    rank = -1 if stage is None and development is not None else _STAGES[stage]
    unfinished = (0, int(development)) if development is not None else (1, 0)
    return int(major), int(minor), int(patch or 0), rank, int(number or 0), *unfinished


def is_stable(version: str) -> bool:
    """Neither a pre-release nor a state of development."""
    return version_key(version)[3:] == (3, 0, 1, 0)
