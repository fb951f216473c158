"""The running program as a set of files: the package banger and exactly the distributions that it needs, wherever they lie at present."""

from __future__ import annotations

import compileall
import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Final

import banger

from ..host.files import STAGING_SUFFIX, publish_directory, remove_tree
from ..model.errors import BangerError, MissingTool

_REQUIREMENT: Final = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[([^\]]*)\])?[^;]*(?:;(.*))?")
_EXTRA: Final = re.compile(r"""\bextra\s*==\s*['"]([^'"]+)['"]""")
_NOT_COPIED: Final = frozenset({"direct_url.json", "INSTALLER", "REQUESTED"})
"""Notes of the tool that installed it, some about the place it was installed from."""


@dataclass(frozen=True, slots=True)
class Program:
    """Files of a version: where each is to lie, relative to the directory of the version, and where it is now."""

    version: str
    files: Mapping[PurePosixPath, Path]

    def digest(self) -> str:
        """Hex SHA-256 of names, kinds and contents; byte code is not counted, which follows from the rest."""
        return _digest(self.files)


def running_program() -> Program:
    """What is running now. Raises MissingTool when a distribution that it needs, or the list of its files, is missing."""
    files: dict[PurePosixPath, Path] = {}
    for distribution in _closure("banger"):
        files |= _files_of(distribution)
    package = Path(banger.__file__).parent
    files |= {PurePosixPath("banger", path.relative_to(package).as_posix()): path for path in package.rglob("*") if path.is_file() and _is_source(path)}
    return Program(banger.__version__, files)


def program_in(directory: Path, version: str) -> Program:
    """The program that was installed into ``directory``."""
    found = {PurePosixPath(path.relative_to(directory).as_posix()): path for path in directory.rglob("*") if path.is_file() and _is_source(path)}
    return Program(version, found)


def place_for(program: Program, versions: Path) -> Path:
    """The directory below ``versions`` that has this very program, or is free for it: that of its version unless another program of the version is there."""
    digest = program.digest()
    for name in (program.version, f"{program.version}+{digest[:12]}"):
        place = versions / name
        if not place.exists() or program_in(place, program.version).digest() == digest:
            return place
    raise BangerError(f"{versions / program.version}+{digest[:12]} is not what was installed there", hint="remove it and install again")


def install_program(program: Program, place: Path) -> None:
    """Copy the program into ``place``, compiled, readable by all and writable by its owner (root) alone; the directory appears complete or not at all."""
    staged = place.with_name(place.name + STAGING_SUFFIX)
    remove_tree(staged)
    staged.mkdir(mode=0o755)
    try:
        for name, source in program.files.items():
            _copy(source, staged / name)
        if not compileall.compile_dir(staged, quiet=2):
            raise BangerError(f"the program in {staged} does not compile", hint="install banger anew where you run this from")
        _settle_modes(staged)
        publish_directory(staged, place)
    except BaseException:
        remove_tree(staged)
        raise


# -- what belongs to it ------------------------------------------------------------------------------------------------------------------------------


def _closure(name: str) -> Iterable[metadata.Distribution]:
    """The distribution and all that it needs, each once."""
    found: dict[str, metadata.Distribution] = {}
    pending: list[tuple[str, frozenset[str], bool]] = [(name, frozenset(), True)]
    seen: set[tuple[str, frozenset[str]]] = set()
    while pending:
        wanted, extras, needed = pending.pop()
        if (_normal(wanted), extras) in seen:
            continue
        seen.add((_normal(wanted), extras))
        try:
            distribution = metadata.distribution(wanted)
        except metadata.PackageNotFoundError:
            if needed:
                raise MissingTool(f"banger needs the Python package {wanted}, which is not installed beside it", hint="install banger anew") from None
            continue
        found[_normal(wanted)] = distribution
        pending += _requirements(distribution, extras)
    return found.values()


def _requirements(distribution: metadata.Distribution, extras: frozenset[str]) -> Iterable[tuple[str, frozenset[str], bool]]:
    """Name, extras, and whether it is needed everywhere. One with a condition counts when it is installed: the installer has evaluated the condition."""
    for text in distribution.requires or ():
        match = _REQUIREMENT.match(text)
        if match is None:
            continue
        name, wanted, condition = match[1], match[2] or "", match[3] or ""
        of_extra = set(_EXTRA.findall(condition))
        if not of_extra or of_extra & extras:
            yield name, frozenset(word.strip() for word in wanted.split(",") if word.strip()), not condition


def _files_of(distribution: metadata.Distribution) -> dict[PurePosixPath, Path]:
    """Its files below the directory of packages; programs and data elsewhere are not needed. Of an editable installation only the description is there."""
    listed = distribution.files
    if listed is None:
        raise MissingTool(
            f"nothing tells which files belong to the Python package {distribution.metadata['Name']}", hint="install banger with pip, in a virtual environment"
        )
    found = {}
    for name in listed:
        path = Path(str(distribution.locate_file(name)))
        if ".." not in name.parts and not name.is_absolute() and name.suffix != ".pth" and name.name not in _NOT_COPIED and path.is_file() and _is_source(path):
            found[PurePosixPath(name)] = path
    return found


def _is_source(path: Path) -> bool:
    return path.suffix != ".pyc" and not path.parent.name.endswith("__pycache__")


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


# -- files -----------------------------------------------------------------------------------------------------------------------------------------------


def _digest(files: Mapping[PurePosixPath, Path]) -> str:
    total = hashlib.sha256()
    for name in sorted(files, key=str):
        with files[name].open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        total.update(f"{name}\0{'x' if _is_executable(files[name]) else '-'}\0{content}\n".encode())
    return total.hexdigest()


def _is_executable(path: Path) -> bool:
    return bool(path.stat().st_mode & 0o100)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(0o755 if _is_executable(source) else 0o644)


def _settle_modes(tree: Path) -> None:
    for path in (tree, *tree.rglob("*")):
        if path.is_dir():
            path.chmod(0o755)
        elif path.suffix == ".pyc":
            path.chmod(0o644)
        if os.geteuid() == 0:
            os.chown(path, 0, 0)
