"""Names for images that nobody has named."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from ..oci.reference import DOCKER_HUB, Reference

_SUFFIXES: Final = (".gz", ".zst", ".xz", ".tgz", ".tar", ".ext4", ".img", ".raw", ".bundle", ".toml")
_LONGEST: Final = 100


def name_of_reference(reference: Reference) -> str:
    """The repository, after its host unless that is Docker Hub, and its tag unless that is ``latest``."""
    if reference.transport != "docker":
        return artifact_name(name_of_file(Path(reference.path)), reference.tag.rpartition(":")[2])
    repository = reference.repository.removeprefix("library/") if reference.host == DOCKER_HUB else f"{reference.host}/{reference.repository}"
    tag = "" if reference.tag == "latest" else reference.tag
    return artifact_name(repository, tag, reference.digest.removeprefix("sha256:")[:12] if not tag else "")


def name_of_file(path: Path) -> str:
    """``rootfs.tar.gz`` -> ``rootfs``."""
    name = path.name
    while suffix := next((one for one in _SUFFIXES if name.endswith(one) and name != one), ""):
        name = name.removesuffix(suffix)
    return artifact_name(name)


def artifact_name(*words: str) -> str:
    """One name out of words that may hold anything."""
    joined = "-".join(re.sub(r"[^A-Za-z0-9._-]+", "-", word).strip("-._") for word in words if word)
    return joined.strip("-._")[:_LONGEST].rstrip("-._") or "image"
