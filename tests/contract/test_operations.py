"""What a whole daemon lists as operations, and what is left when one is cancelled."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from banger.api import types as t
from banger.model.errors import Cancelled
from tests.fakes.harness import SMALL, FakeInstance, fake_instance


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[FakeInstance]:
    with fake_instance(tmp_path / "home", FAKE_FAULTS="stubborn") as instance:
        yield instance


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def operations(instance: FakeInstance, kind: str) -> tuple[t.Operation, ...]:
    with instance.client() as client:
        return tuple(one for one in client.call("operation.list") if one.kind == kind)


def test_stopping_by_itself_is_an_operation(instance: FakeInstance) -> None:
    request = t.CreateVM(name="box", ttl=0.3, system_overlay_bytes=SMALL, work_disk_bytes=SMALL)
    with instance.client() as client:
        client.operation("vm.create", None, request)
    wait_for(lambda: operations(instance, "vm.auto_stop"))
    (one,) = operations(instance, "vm.auto_stop")
    assert (one.target, one.state) == ("box", "running")
    with instance.client() as client:
        client.call("operation.cancel", {"id": one.id})
    wait_for(lambda: operations(instance, "vm.auto_stop")[0].state == "cancelled")
    assert instance.host.rows("journal") == []
    assert instance.state() == "running"


def test_a_cancelled_stop_is_over_while_the_daemon_lives(instance: FakeInstance) -> None:
    instance.create()
    failures: list[BaseException] = []

    def stop() -> None:
        with pytest.raises(Cancelled) as caught:
            instance.operate("vm.stop", request=t.StopVM(timeout=60))
        failures.append(caught.value)

    stopping = threading.Thread(target=stop)
    stopping.start()
    wait_for(lambda: operations(instance, "vm.stop") and operations(instance, "vm.stop")[0].stage == "graceful_shutdown")
    with instance.client() as client:
        client.call("operation.cancel", {"id": operations(instance, "vm.stop")[0].id})
    stopping.join(20)
    assert len(failures) == 1
    assert instance.host.rows("journal") == []
    assert (instance.state(), instance.wrong()) == ("running", [])
    instance.operate("vm.kill", request=t.KillVM(signal=signal.SIGKILL.name))
    assert instance.state() == "stopped"
