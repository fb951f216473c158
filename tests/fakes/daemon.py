"""A real daemon over drivers without machines: ``python -m tests.fakes.daemon``, with BANGER_HOME set. The test's composition root.

Points at which it is to be interrupted are in ``BANGER_HOME/plan`` (injection.py). FAKE_FAULTS are the guests' faults (vmm.c); FAKE_NETWORK=bridge puts
machines on a bridge (bridge.py); FAKE_MKE2FS=1 makes real file systems, FAKE_DRIVERS=none real machines.
"""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

from banger.daemon import app, main
from banger.daemon.host_network import HostNetworking
from banger.host.paths import Layout
from banger.store import Database
from tests.fakes.bridge import fake_bridge
from tests.fakes.drivers import FakeImages, FakeNetwork, FakeVmm, fake_disks
from tests.fakes.injection import InjectedMachines, InjectingRunner, Plan


def fake_networking(directory: Path, _settings: object, _layout: object, database: Database) -> HostNetworking:
    """The network that FAKE_NETWORK names."""
    if os.environ.get("FAKE_NETWORK") == "bridge":
        return fake_bridge(directory, database)
    return HostNetworking(driver=FakeNetwork(directory))


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
        patches.enter_context(patch("banger.net.pool.SETTLE_SECONDS", 0.01))
        if not os.environ.get("FAKE_MKE2FS"):
            patches.enter_context(fake_disks())
        patches.enter_context(
            patch.multiple(
                app,
                QemuVmm=lambda *_, **__: FakeVmm(os.environ.get("FAKE_FAULTS", "")),
                host_networking=partial(fake_networking, home / "network"),
                ImageService=FakeImages,
            )
        )
        return main.main([])


if __name__ == "__main__":
    sys.exit(run())
