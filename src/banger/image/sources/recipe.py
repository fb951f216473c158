"""Images built here from a distribution's packages."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass
from pathlib import Path

import msgspec

from ...host.files import sha256_of
from ...model.progress import Report
from .. import recipe as recipes
from ..catalog import Distribution, Recipe
from .protocol import ROOTFS, Made


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeSource:
    """A recipe of a catalog, or a user's own in ``file``."""

    recipe: Recipe
    distribution: Distribution
    file: Path | None = None

    @property
    def origin(self) -> str:
        return f"recipe:{self.file or self.recipe.name}"

    @property
    def name(self) -> str:
        return self.recipe.name

    @property
    def reference(self) -> str:
        return str(self.file or "")

    @property
    def kernel(self) -> str:
        return self.recipe.kernel

    async def revision(self, report: Report) -> str:
        """A catalog's recipe is built once; a user's own again when it says something else."""
        return "" if self.file is None else "sha256:" + hashlib.sha256(msgspec.json.encode(self.recipe, order="deterministic")).hexdigest()

    async def make(self, staging: Path, report: Report) -> Made:
        """Raises MissingTool, NoSpace, CommandFailed."""
        tree = await recipes.build(self.recipe, self.distribution, staging, report)
        return Made(
            digest=await asyncio.to_thread(sha256_of, staging / ROOTFS),
            revision=await self.revision(report),
            facts={"suite": self.recipe.suite, "packages": tree.packages},
        )
