"""An instance with an empty store, and whether this user can build images at all."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from banger.host.paths import Layout
from banger.image import namespace
from banger.model.errors import BangerError
from banger.store import Database


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout.from_environment({"BANGER_HOME": str(tmp_path / "instance")})
    layout.state.mkdir(parents=True, mode=0o700)
    return layout


@pytest.fixture
def database(layout: Layout) -> Iterator[Database]:
    database = Database.open(layout.database)
    yield database
    database.close()


@pytest.fixture(scope="session")
def needs_namespace() -> None:
    """Skips where no namespace can be made (no uidmap, no subordinate ids, a locked-down container)."""
    try:
        asyncio.run(namespace.check())
    except BangerError as error:
        pytest.skip(f"{error.message} ({error.hint})")
