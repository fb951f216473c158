"""A fake daemon as a test sees it: started, spoken to, killed, started again, and held against the oracle."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from banger.api import types as t
from banger.api.messages import Request
from banger.client import Client
from banger.host.paths import Layout
from banger.model.errors import BangerError
from tests import oracle
from tests.e2e.instance import Instance, clean_environment
from tests.fakes import bridge
from tests.fakes.drivers import fake_vmm
from tests.fakes.injection import Plan

ROOT = Path(__file__).parents[2]
SMALL = 64 << 20
"""Bytes of each disk."""


@dataclass
class FakeInstance:
    """An instance below ``home`` whose daemon is ``python -m tests.fakes.daemon``."""

    home: Path
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        fake_vmm()
        self.environment = clean_environment(BANGER_HOME=str(self.home), HOME=str(self.home), PYTHONPATH=f"{ROOT}:{ROOT / 'src'}") | self.environment
        self.layout = Layout.from_environment(self.environment)
        self.host = Instance(self.home)
        self.plan = Plan(self.home)
        self._daemon: subprocess.Popen[bytes] | None = None
        self.home.mkdir(exist_ok=True, mode=0o700)

    # -- the daemon ------------------------------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start a daemon and wait until it serves calls; returns also when it has died by the plan."""
        self._daemon = subprocess.Popen([sys.executable, "-m", "tests.fakes.daemon"], env=self.environment, cwd=ROOT, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + 30
        while self._daemon.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(BangerError, OSError):
                self.machines()
                return
            time.sleep(0.01)
        if self._daemon.poll() != -signal.SIGKILL:
            raise AssertionError(f"the daemon does not serve: {self.layout.daemon_log.read_text()[-2000:]}")

    @property
    def pid(self) -> int:
        assert self._daemon is not None
        return self._daemon.pid

    def end(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End the daemon, if it runs, and wait until it is gone."""
        if self._daemon is not None:
            with contextlib.suppress(ProcessLookupError):
                self._daemon.send_signal(number)
            self._daemon.wait(30)
            self._daemon = None

    def died(self) -> bool:
        """Whether the daemon has been killed by the plan; waits a moment for it."""
        assert self._daemon is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._daemon.wait(5)
        return self._daemon.poll() == -signal.SIGKILL

    @contextmanager
    def client(self) -> Iterator[Client]:
        with Client.connect(self.layout, start=False, timeout=30) as client:
            yield client

    # -- machines --------------------------------------------------------------------------------------------------------------------------------

    def machines(self) -> dict[str, Any]:
        """Rows by name, as the daemon shows them."""
        with self.client() as client:
            return {record.name: record for record in client.call("vm.list")}

    def operate(self, name: str, ref: str = "box", request: Request | None = None) -> Any:
        """An operation on a machine, waited for."""
        with self.client() as client:
            return client.operation(name, {"ref": ref}, request)

    def create(self, name: str = "box", *, start: bool = True, nat: bool = False) -> Any:
        with self.client() as client:
            return client.operation("vm.create", None, t.CreateVM(name=name, start=start, nat=nat, system_overlay_bytes=SMALL, work_disk_bytes=SMALL))

    def state(self, name: str = "box") -> str:
        """State of a machine, "" when there is none."""
        record = self.machines().get(name)
        return "" if record is None else str(record.state)

    def state_on_disk(self, name: str = "box") -> str:
        """State of a machine as stored, read past the daemon."""
        return next((row["state"] for row in self.host.rows("vms") if row["name"] == name), "")

    def delete_all(self) -> None:
        for name in self.machines():
            self.operate("vm.delete", name)

    @property
    def on_bridge(self) -> bool:
        """Its machines are on the bridge of tests/fakes/bridge.py."""
        return self.environment.get("FAKE_NETWORK") == "bridge"

    # -- the oracle ------------------------------------------------------------------------------------------------------------------------------

    def wrong(self) -> list[str]:
        """Where the host differs from what the rows promise."""
        if self.environment.get("FAKE_DRIVERS") == "none":
            return oracle.broken_promises(self.host)
        network = self.home / "network"
        if self.on_bridge:
            return oracle.broken_promises(self.host) + bridge.broken_promises(network, self.host.rows("vms"))
        running = {row["id"] for row in self.host.rows("vms") if row["state"] == "running"}
        attached = {path.name for path in network.iterdir()} if network.exists() else set()
        wrong = oracle.broken_promises(self.host)
        return wrong if attached == running else [*wrong, f"attached to the network: {sorted(attached)}, running: {sorted(running)}"]

    def left(self) -> list[str]:
        """What is left of anything, once all machines are deleted."""
        network = self.home / "network"
        if self.on_bridge:
            return oracle.leftovers(self.host) + bridge.broken_promises(network, [])
        return oracle.leftovers(self.host) + ([f"network of {path.name}" for path in network.iterdir()] if network.exists() else [])


def settled(look: Callable[[], list[str]], seconds: float = 5.0) -> list[str]:
    """What ``look`` finds, once it finds nothing or the time is over: a watcher may be tidying up."""
    deadline = time.monotonic() + seconds
    while (found := look()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return found


@contextmanager
def fake_instance(home: Path, **environment: str) -> Iterator[FakeInstance]:
    """A fake instance whose daemon runs; at the end nothing of it does."""
    instance = FakeInstance(home, environment)
    try:
        instance.start()
        yield instance
    finally:
        instance.end()
        for pid, _ in list(oracle.processes_of(str(home))):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
