"""What can be got by name: the entries of a catalog, and the catalog inside this package."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Final

from ..model.errors import NotFound

EMBEDDED: Final = Path(__file__).with_name("catalog.toml")
DEFAULT_KERNEL: Final = "debian-cloud"
"""What an image boots with that names no kernel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogImage:
    """An image that can be pulled by name, as it is shown to people."""

    name: str
    description: str
    kernel: str
    """Name of the kernel in the catalog that it boots with."""
    source: str = ""
    """``recipe``, a container reference, or a bundle's URL."""
    size_bytes: int = 0
    """Of the finished image; 0 = the catalog does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """Where a distribution's packages come from, who signs them, and what makes any of its trees an image."""

    origin: str
    """What its Release files say under ``Origin``."""
    keyring: str
    keyring_package: str
    components: tuple[str, ...]
    mirrors: dict[str, str]
    """Release name (with ``{suite}``) -> base URL."""
    suites: tuple[str, ...] = ()
    """Those that recipes may be based on."""
    remove: tuple[str, ...] = ()
    """As in a recipe; applied before the recipe's own, like ``links`` and ``files``."""
    links: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How an image is built from packages, and what is changed in the unpacked tree afterwards."""

    name: str
    suite: str
    packages: tuple[str, ...]
    description: str = ""
    kernel: str = DEFAULT_KERNEL
    distribution: str = "debian"
    scratch_bytes: int = 1 << 30
    """Free space that the build needs."""
    remove: tuple[str, ...] = ()
    """Absolute globs."""
    links: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageEntry:
    """An image that others have made: exactly one of ``reference`` and ``bundle``."""

    name: str
    description: str = ""
    kernel: str = DEFAULT_KERNEL
    reference: str = ""
    """A container image: ``docker://HOST/REPOSITORY:TAG``."""
    bundle: str = ""
    """https URL of a bundle; needs ``digest``."""
    digest: str = ""
    """``sha256:...``: of the container image's manifest, or of the bundle."""
    size_bytes: int = 0
    """Of the bundle: no more is downloaded. 0 = not known."""


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
    """All entries by name. Names of recipes and of other images are different."""

    recipes: Mapping[str, Recipe]
    kernels: Mapping[str, KernelRecipe]
    distributions: Mapping[str, Distribution]
    entries: Mapping[str, ImageEntry] = field(default_factory=dict)

    def images(self) -> tuple[CatalogImage, ...]:
        """The images as they are shown to people."""
        built = [CatalogImage(name=r.name, description=r.description, kernel=r.kernel, source="recipe") for r in self.recipes.values()]
        made = [
            CatalogImage(name=e.name, description=e.description, kernel=e.kernel, source=e.reference or e.bundle, size_bytes=e.size_bytes)
            for e in self.entries.values()
        ]
        return (*built, *made)

    def knows(self, name: str) -> bool:
        """Whether an image of that name can be got."""
        return name in self.recipes or name in self.entries


@cache
def embedded() -> Catalog:
    """The catalog inside this package."""
    from .catalog_files import read

    return read([EMBEDDED])


def unknown(name: str, known: Iterable[str], noun: str = "image", *, listing: str = "list --available") -> NotFound:
    """The error for a name that nothing has; the hint gives the nearest ones."""
    near = difflib.get_close_matches(name, sorted(set(known)), n=3, cutoff=0.5)
    lead = f"did you mean {' or '.join(near)}? " if near else ""
    return NotFound(f"no {noun} {name!r}", hint=f"{lead}see: banger {noun} {listing}")
