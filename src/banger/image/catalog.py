"""What can be pulled by name: the embedded catalog of recipes and kernels."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import msgspec

from ..model.errors import NotFound

_FILE: Final = Path(__file__).with_name("catalog.toml")


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogImage:
    """An image that can be pulled by name."""

    name: str
    description: str
    kernel: str
    """Name of the kernel in the catalog that it boots with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """Where a distribution's packages come from and who signs them."""

    origin: str
    """What its Release files say under ``Origin``."""
    keyring: str
    keyring_package: str
    components: tuple[str, ...]
    mirrors: dict[str, str]
    """Release name (with ``{suite}``) -> base URL."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How an image is built from packages, and what is changed in the unpacked tree afterwards."""

    name: str
    description: str
    kernel: str
    distribution: str
    suite: str
    packages: tuple[str, ...]
    scratch_bytes: int
    """Free space that the build needs."""
    remove: tuple[str, ...]
    """Absolute globs."""
    links: dict[str, str]
    files: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelRecipe:
    """A kernel that comes as a package."""

    name: str
    description: str
    distribution: str
    suite: str
    package: str
    """The package that depends on the newest kernel's package."""
    scratch_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    """All entries by name."""

    recipes: dict[str, Recipe]
    kernels: dict[str, KernelRecipe]
    distributions: dict[str, Distribution]

    def images(self) -> tuple[CatalogImage, ...]:
        """The images as they are shown to people."""
        return tuple(CatalogImage(name=r.name, description=r.description, kernel=r.kernel) for r in self.recipes.values())


def load(file: Path = _FILE) -> Catalog:
    """Read a catalog. Raises ValueError for a mistake in it (msgspec.ValidationError, tomllib.TOMLDecodeError)."""
    raw = tomllib.loads(file.read_text())
    for entries in (raw["recipes"], raw["kernels"]):
        for name, entry in entries.items():
            entry["name"] = name
    return msgspec.convert(raw, Catalog)


@cache
def embedded() -> Catalog:
    """The catalog inside this package."""
    return load()


def unknown(name: str, known: Iterable[str], noun: str = "image") -> NotFound:
    """The error for a name that nothing has; the hint gives the nearest ones."""
    near = difflib.get_close_matches(name, sorted(set(known)), n=3, cutoff=0.5)
    lead = f"did you mean {' or '.join(near)}? " if near else ""
    listing = "banger image list --available" if noun == "image" else f"banger {noun} list"
    return NotFound(f"no {noun} {name!r}", hint=f"{lead}see: {listing}")
