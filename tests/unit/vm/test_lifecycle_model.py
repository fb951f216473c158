"""A short game of tests/fakes/lifecycle.py, the same in every run; tests/soak plays long ones."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

from tests.fakes.lifecycle import Lifecycle

TestLifecycle = pytest.mark.timeout(120)(Lifecycle.TestCase)
TestLifecycle.settings = settings(
    max_examples=20, stateful_step_count=12, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
