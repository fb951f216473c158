"""The laboratory of a test run, and what tests need in it.

| fixture      | scope   | what                                                                            |
|--------------|---------|---------------------------------------------------------------------------------|
| `laboratory` | session | a fresh one with today's program; with BANGER_LAB_KEEP=1 that of ``./dev lab``  |
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.lab.laboratory import Laboratory, kept_laboratory, obstacle, temporary_laboratory


@pytest.fixture(scope="session")
def laboratory() -> Iterator[Laboratory]:
    if reason := obstacle():
        pytest.skip(reason)
    if os.environ.get("BANGER_LAB_KEEP"):
        yield kept_laboratory()
    else:
        with temporary_laboratory() as fresh:
            yield fresh
