"""The guest program's binary, as shipped inside this package."""

from __future__ import annotations

from pathlib import Path

from ..model.errors import MissingTool


def guest_program() -> Path:
    """Path of the static program that is /init in every guest. Raises MissingTool when the package was made without it."""
    path = Path(__file__).parent / "program" / "banger-guest"
    if not path.is_file():
        raise MissingTool(f"the guest program {path} is missing", hint="in a checkout run ./dev setup; otherwise install banger again")
    return path
