"""Machines that come and go on the bridge: no link, rule, element of a set or descriptor stays. A few of the cycles run with tests/net."""

from __future__ import annotations

import os

import pytest

from tests.net.cycles import cycles_leave_nothing
from tests.net.lab import lab

CYCLES = int(os.environ.get("BANGER_SOAK_CYCLES", "1000"))

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="only root makes network namespaces"), pytest.mark.timeout(1800)]


def test_attach_and_detach() -> None:
    with lab() as found:
        cycles_leave_nothing(found, CYCLES)
