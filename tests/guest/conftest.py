"""The guest program, built with sanitizers and driven over a socketpair by an independent implementation of the protocol."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.guest.wire import Guest

SOURCES = Path(__file__).parents[2] / "guest"


@pytest.fixture(scope="session")
def guest_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where both programs were built."""
    out = tmp_path_factory.mktemp("guest-build")
    subprocess.run(["make", "-s", "-j2", "-C", SOURCES, f"OUT={out}", "all", "sanitized"], check=True, timeout=50)
    return out


@pytest.fixture
def make_guest(guest_build: Path, tmp_path: Path) -> Callable[..., Guest]:
    """Starts the sanitized program; its --root is tmp_path/root."""

    def make(*, configured: bool = True) -> Guest:
        root = tmp_path / "root"
        root.mkdir(exist_ok=True)
        return Guest(guest_build / "banger-guest-sanitized", root, configured=configured)

    return make


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


@pytest.fixture
def guest(make_guest: Callable[..., Guest]) -> Iterator[Guest]:
    """A configured guest that has been greeted."""
    with make_guest() as running:
        running.greet()
        yield running
