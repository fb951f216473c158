"""Events of a whole life, as a client of a real daemon (over fake drivers) and the command line see them."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from banger.model.errors import BadRequest, BangerError
from banger.model.records import VMEvent
from tests.fakes.harness import FakeInstance, fake_instance


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeInstance]:
    with fake_instance(tmp_path_factory.mktemp("events") / "home") as instance:
        yield instance


def events(instance: FakeInstance, since: int) -> list[VMEvent]:
    with instance.client() as client:
        return list(client.stream("events", {"since": str(since)}))


def newest(instance: FakeInstance) -> int:
    return max((event.cursor for event in events(instance, 0)), default=0)


def test_a_life_is_told_from_beginning_to_end(instance: FakeInstance) -> None:
    begin = newest(instance)
    instance.create()
    instance.operate("vm.delete")
    found = events(instance, begin)
    assert [event.cursor for event in found] == list(range(begin + 1, begin + 1 + len(found)))
    assert [event.state for event in found if event.kind == "state"] == ["created", "running", "deleted"]
    stages = [event.stage for event in found if event.kind == "stage"]
    assert stages[0] == "preflight" and stages[-1] == "delete_vm_dir"
    assert {event.vm_name for event in found} == {"box"}
    assert all(event.op_id.startswith("op-") for event in found)


def test_a_failure_is_told_with_its_stage_and_cause_and_the_cursor_survives_a_crash(instance: FakeInstance) -> None:
    begin = newest(instance)
    instance.plan.write(["vm.start/network:before raise"])
    with pytest.raises(BangerError, match="injected"):
        instance.create()
    middle = newest(instance)
    (failure,) = [event for event in events(instance, begin) if event.kind == "failure"]
    assert (failure.operation, failure.stage, failure.message) == ("vm.start", "network", "injected at vm.start/network:before")
    instance.end()
    instance.start()
    instance.delete_all()
    assert events(instance, middle)[-1].state == "deleted"
    assert not {event.cursor for event in events(instance, middle)} & {event.cursor for event in events(instance, begin) if event.cursor <= middle}


def test_a_follower_gets_what_happens_and_ends_with_the_daemon(instance: FakeInstance) -> None:
    seen: list[str] = []

    def follow() -> None:
        with instance.client() as client:
            seen.extend(event.state for event in client.stream("events", {"follow": "1"}) if event.kind == "state")

    follower = threading.Thread(target=follow)
    follower.start()
    time.sleep(0.3)
    instance.create()
    instance.operate("vm.delete")
    with instance.client() as client:
        client.call("daemon.stop")
    follower.join(20)
    assert not follower.is_alive()
    assert seen == ["created", "running", "deleted"]
    instance.end()
    instance.start()


def test_a_follower_that_does_not_read_holds_nobody_up(instance: FakeInstance) -> None:
    with socket.socket(socket.AF_UNIX) as lazy:
        lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        lazy.connect(str(instance.layout.api_socket))
        lazy.sendall(b"GET /v1/events?since=0&follow=1 HTTP/1.1\r\nHost: x\r\n\r\n")
        for _ in range(20):
            instance.create()
            instance.operate("vm.delete")
        assert events(instance, newest(instance) - 1)[-1].state == "deleted"


@pytest.mark.parametrize("since", ["-1", "x", "999999999", "1.5"])
def test_a_cursor_that_is_none_is_refused(instance: FakeInstance, since: str) -> None:
    with instance.client() as client, pytest.raises(BadRequest, match="cursor"):
        list(client.stream("events", {"since": since}))


def test_the_command_prints_lines_and_json(instance: FakeInstance) -> None:
    begin = newest(instance)
    instance.create()
    instance.operate("vm.delete")

    def banger(*words: str) -> list[str]:
        program = Path(sys.executable).with_name("banger")
        done = subprocess.run([program, "events", *words], env=instance.environment, capture_output=True, text=True, timeout=30)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.splitlines()

    lines = banger("--since", str(begin))
    assert lines[0].split()[0] == str(begin + 1)
    assert "stage" in lines[1] and "vm.start preflight" in lines[1] and "box" in lines[1]
    assert [json.loads(line)["cursor"] for line in banger("--json", "--since", str(begin))] == [int(line.split()[0]) for line in lines]
    assert len(banger()) <= 100
