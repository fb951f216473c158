"""Whether this user can build images at all."""

from __future__ import annotations

import asyncio

import pytest

from banger.image import namespace
from banger.model.errors import BangerError


@pytest.fixture(scope="session")
def needs_namespace() -> None:
    """Skips where no namespace can be made (no uidmap, no subordinate ids, a locked-down container)."""
    try:
        asyncio.run(namespace.check())
    except BangerError as error:
        pytest.skip(f"{error.message} ({error.hint})")
