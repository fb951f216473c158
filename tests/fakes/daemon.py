"""A real daemon over drivers without machines: ``python -m tests.fakes.daemon``, with BANGER_HOME set. The test's composition root.

Points at which it is to be interrupted are in ``BANGER_HOME/plan`` (injection.py). FAKE_FAULTS are the guests' faults (vmm.c); FAKE_MKE2FS=1 makes real
file systems, FAKE_DRIVERS=none real machines.
"""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from functools import partial
from typing import Any
from unittest.mock import patch

from banger.daemon import app, main
from banger.host.paths import Layout
from tests.fakes.drivers import FakeImages, FakeNetwork, FakeVmm, fake_disks
from tests.fakes.injection import InjectedMachines, InjectingRunner, Plan


def run() -> int:
    """Serve until stopped or killed."""
    home = Layout.from_environment().state.parent
    plan = Plan(home)

    def machines(**services: Any) -> InjectedMachines:
        made = InjectedMachines(**services, runner_type=partial(InjectingRunner, reach=plan))
        made.reach = plan
        return made

    with ExitStack() as patches:
        patches.enter_context(patch.object(app, "Machines", machines))
        if os.environ.get("FAKE_DRIVERS") == "none":
            return main.main([])
        if not os.environ.get("FAKE_MKE2FS"):
            patches.enter_context(fake_disks())
        patches.enter_context(
            patch.multiple(
                app,
                QemuVmm=lambda *_, **__: FakeVmm(os.environ.get("FAKE_FAULTS", "")),
                UserNetwork=lambda *_, **__: FakeNetwork(home / "network"),
                ImageService=FakeImages,
            )
        )
        return main.main([])


if __name__ == "__main__":
    sys.exit(run())
