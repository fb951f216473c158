"""The wheels of a release: our own, and those of exactly what it needs, with the versions and hashes of requirements.lock."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from banger.model.errors import BangerError

ROOT = Path(__file__).parents[1]
PLATFORMS = ("manylinux_2_36_x86_64", "manylinux_2_34_x86_64", "manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64", "manylinux_2_5_x86_64")
"""What wheels may be made for: nothing newer than the glibc of Debian 12."""


def build_wheel(target: Path, epoch: int) -> Path:
    """Build the tree's wheel with the hatchling that is installed; nothing is downloaded."""
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(epoch), "PYTHONDONTWRITEBYTECODE": "1"}
    words: list[str | Path] = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", target]
    done = subprocess.run(words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise BangerError(f"the wheel cannot be built:\n{done.stdout}")
    return next(target.glob("banger-*.whl"))


def gather_dependencies(target: Path, python: str, wheels: Path | None) -> list[Path]:
    """The wheels of all that banger needs on that Python, from the index or the directory ``wheels``; only files that requirements.lock has a hash of."""
    target.mkdir()
    lock = target / "runtime.lock"
    lock.write_text(locked(closure(python)))
    where = ["--no-index", "--find-links", str(wheels)] if wheels else []
    platforms = [word for one in PLATFORMS for word in ("--platform", one)]
    words = ["--no-deps", "--require-hashes", "--only-binary=:all:", "--implementation=cp", f"--python-version={python}", *platforms]
    done = subprocess.run([sys.executable, "-m", "pip", "download", "-qq", "--disable-pip-version-check", "-d", target, *where, *words, "-r", lock])
    if done.returncode:
        raise BangerError(f"not everything that banger needs is there as a wheel for Python {python}")
    return sorted(target.glob("*.whl"))


def closure(python: str) -> set[str]:
    """Normal names of the distributions that banger needs on that Python, as those that are installed here say."""
    environment = {"python_version": python, "python_full_version": f"{python}.0"}
    found: set[str] = set()
    pending = [("banger", "")]
    while pending:
        name, extra = pending.pop()
        for text in metadata.requires(name) or ():
            requirement = Requirement(text)
            if requirement.marker is not None and not requirement.marker.evaluate({**environment, "extra": extra}):
                continue
            wanted = canonicalize_name(requirement.name)
            if wanted not in found or requirement.extras:
                pending += [(wanted, one) for one in ("", *requirement.extras)]
            found.add(wanted)
    return found


def locked(names: set[str]) -> str:
    """The part of requirements.lock about these, without conditions: they have been decided."""
    blocks = re.split(r"\n(?=\S)", (ROOT / "requirements.lock").read_text().strip())
    parts: dict[str, str] = {canonicalize_name(block.split("==")[0].strip()): re.sub(r" ;[^\\\n]*", " ", block) for block in blocks}
    if missing := names - parts.keys():
        raise BangerError(f"requirements.lock does not have {', '.join(sorted(missing))}", hint="CONTRIBUTING.md, Dependencies")
    return "\n".join(parts[name] for name in sorted(names)) + "\n"
