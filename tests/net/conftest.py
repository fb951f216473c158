"""A laboratory of network namespaces for each module."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.net.lab import Lab, lab


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.root)
            item.add_marker(pytest.mark.skipif(os.geteuid() != 0, reason="only root makes network namespaces"))


@pytest.fixture
def bare() -> Iterator[Lab]:
    """A host of its own, on which nothing has been made yet."""
    with lab() as found:
        yield found


@pytest.fixture(scope="module")
def shared() -> Iterator[Lab]:
    """A host with its network, for tests that leave it as it is."""
    with lab() as found:
        found.host.do(found.network.ensure_network())
        yield found
