"""A release as files: wheels, SHA256SUMS, the manifest of all releases, and the signatures."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from banger.model.errors import BangerError
from banger.system.release import MANIFEST, SCHEMA_VERSION, SIGNATURE_SUFFIX, SUMS, check_sums, is_stable, parse_manifest, parse_sums, version_key
from banger.system.signature import NAMESPACE, verify


@dataclass(frozen=True, kw_only=True)
class Edition:
    """What is to be published."""

    version: str
    epoch: int
    units: str
    pythons: Mapping[str, Sequence[Path]]
    """Wheels by Python."""
    min_from: str = "0.0"


def publish(out: Path, edition: Edition, *, key: Path | None, signers: Path) -> list[str]:
    """Add the release to ``out``; remarks for whoever makes it. Raises BangerError when its signature is not by one of ``signers``."""
    directory = out / edition.version
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    for wheel in {path.name: path for paths in edition.pythons.values() for path in paths}.values():
        shutil.copyfile(wheel, directory / wheel.name)
    files = [describe(path) for path in sorted(directory.glob("*.whl"))]
    (directory / SUMS).write_text("".join(f"{file['sha256']}  {file['name']}\n" for file in files))
    manifest, notes = add(known(out), edition, files)
    (out / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    check(out, edition)
    for path in (out / MANIFEST, directory / SUMS):
        sign(path, key, signers)
    return [*notes, *(() if key else ("it is not signed: --key",))]


def describe(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    tags = path.name.removesuffix(".whl").split("-")[-3:]
    return {"name": path.name, "size": len(content), "sha256": hashlib.sha256(content).hexdigest(), "tags": "-".join(tags)}


def known(out: Path) -> dict[str, Any]:
    """The manifest that is there, or one without releases."""
    path = out / MANIFEST
    if not path.exists():
        return {"schema_version": SCHEMA_VERSION, "latest_stable": "", "versions": {}}
    parse_manifest(path.read_bytes())
    manifest: dict[str, Any] = json.loads(path.read_bytes())
    return manifest


def add(manifest: dict[str, Any], edition: Edition, files: list[dict[str, Any]]) -> tuple[dict[str, Any], list[str]]:
    """The manifest with this release, and what is to be said of it."""
    versions = manifest["versions"]
    older = sorted((one for one in versions if version_key(one) < version_key(edition.version)), key=version_key)
    changed = bool(older) and versions[older[-1]]["units"] != edition.units
    versions[edition.version] = {
        "released_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(edition.epoch)),
        "files": files,
        "pythons": {python: [path.name for path in paths] for python, paths in edition.pythons.items()},
        "units": edition.units,
        "units_changed": changed,
        "min_from": edition.min_from,
    }
    stable = [one for one in versions if is_stable(one)] or [edition.version]
    manifest["latest_stable"] = max(stable, key=version_key)
    return manifest, [f"its units are others than those of {older[-1]}: say so in CHANGELOG.md"] if changed else []


def check(out: Path, edition: Edition) -> None:
    """What was written, read as an update reads it. Raises BangerError."""
    release = parse_manifest((out / MANIFEST).read_bytes()).release(edition.version)
    sums = parse_sums((out / edition.version / SUMS).read_bytes())
    for python in edition.pythons:
        check_sums(sums, release.files_for(python))


def sign(path: Path, key: Path | None, signers: Path) -> None:
    """Sign the file, or remove an old signature when there is no key; raises BangerError when those who check it would not accept it."""
    signature = path.with_name(path.name + SIGNATURE_SUFFIX)
    signature.unlink(missing_ok=True)
    if key is None:
        return
    with path.open("rb") as document:
        done = subprocess.run(["ssh-keygen", "-q", "-Y", "sign", "-f", key, "-n", NAMESPACE], stdin=document, capture_output=True)
    if done.returncode:
        raise BangerError(f"{path} could not be signed: {done.stderr.decode(errors='replace').strip()}")
    try:
        verify(path.read_bytes(), done.stdout, signers.read_bytes(), path.name)
    except BangerError as error:
        raise BangerError(f"{key} is none of the keys in {signers}, so nobody could install this", hint="CONTRIBUTING.md, Release") from error
    signature.write_bytes(done.stdout)
