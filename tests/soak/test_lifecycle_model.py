"""Long random games of tests/fakes/lifecycle.py."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

from tests.fakes.lifecycle import Lifecycle

TestLifecycle = pytest.mark.timeout(3600)(Lifecycle.TestCase)
TestLifecycle.settings = settings(max_examples=300, stateful_step_count=40, deadline=None, print_blob=True, suppress_health_check=list(HealthCheck))
