"""The client: discovery, trust, HTTP, versions, operations, starting one daemon."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from banger import __version__
from banger.api.types import CreateVM, Event, StopVM
from banger.client import Client
from banger.client import start as start_module
from banger.client.discovery import find_endpoint
from banger.host.paths import Layout
from banger.host.sockets import listen
from banger.model.errors import AlreadyExists, BadRequest, BadVersion, BangerError, DaemonUnreachable, NotFound, Unauthorized
from banger.model.records import VMState
from tests.unit.client.fake_daemon import Call, FakeDaemon, Reply, failure, running
from tests.unit.client.samples import RECORD, STATUS


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    with running(tmp_path) as daemon:
        daemon.routes["GET /v1/daemon"] = Reply(STATUS)
        yield daemon


def test_environment_decides_which_daemon(tmp_path: Path) -> None:
    named = find_endpoint({"BANGER_SOCKET": "/x/api.sock", "BANGER_HOME": "/y"})
    assert (named.api, named.attach, named.layout) == (Path("/x/api.sock"), Path("/x/attach.sock"), None)
    assert find_endpoint({"BANGER_HOME": "/y"}).api == Path("/y/run/bangerd.sock")
    assert find_endpoint({"HOME": "/h", "XDG_RUNTIME_DIR": "/run/user/7"}).api == Path("/run/user/7/banger/bangerd.sock")


def test_a_read_is_decoded_into_records(daemon: FakeDaemon) -> None:
    daemon.routes["GET /v1/vms"] = Reply([RECORD])
    with Client.connect(daemon.layout) as client:
        (record,) = client.call("vm.list")
        assert (record.name, record.state, record.spec.memory_mib) == ("box", VMState.RUNNING, 2048)
    (call,) = daemon.calls
    assert (call.headers["banger-api-version"], call.headers["banger-version"]) == ("1", __version__)


def test_names_are_quoted_and_empty_ones_refused(daemon: FakeDaemon) -> None:
    daemon.routes["GET /v1/images/a%2Fb%20c"] = failure(404, "not_found", "no image a/b c", hint="see image list", op_id="op-aaaaaaaaaaaa")
    with Client.connect(daemon.layout) as client:
        with pytest.raises(NotFound) as caught:
            client.call("image.show", {"name": "a/b c"})
        assert (caught.value.message, caught.value.hint, caught.value.op_id) == ("no image a/b c", "see image list", "op-aaaaaaaaaaaa")
        with pytest.raises(BadRequest):
            client.call("image.show", {"name": ""})


def test_an_operation_reports_and_returns_its_result(daemon: FakeDaemon) -> None:
    daemon.routes["POST /v1/vms"] = Reply(lines=[{"stage": "reserve_vm", "elapsed": 0.1}, {"stage": "network"}, {"done": True, "result": RECORD}])
    events: list[Event] = []
    with Client.connect(daemon.layout) as client:
        record = client.operation("vm.create", request=CreateVM(name="box", vcpu_count=2), on_event=events.append)
    assert record.name == "box"
    assert [event.stage for event in events] == ["reserve_vm", "network"]
    call = daemon.calls[-1]
    assert call.query == "wait=1"
    assert call.json["name"] == "box"
    assert call.json["vcpu_count"] == 2


def test_a_failed_operation_raises_its_error(daemon: FakeDaemon) -> None:
    error = {"code": "already_exists", "message": "box exists", "hint": "choose another name", "vm": "box"}
    daemon.routes["POST /v1/vms"] = Reply(lines=[{"stage": "reserve_vm"}, {"done": True, "error": error}])
    with Client.connect(daemon.layout) as client, pytest.raises(AlreadyExists) as caught:
        client.operation("vm.create", request=CreateVM())
    assert (caught.value.vm, caught.value.op_id) == ("box", "op-0123456789ab")


def test_a_stream_that_ends_early_is_an_error(daemon: FakeDaemon) -> None:
    daemon.routes["POST /v1/vms"] = Reply(lines=[{"stage": "reserve_vm"}])
    with Client.connect(daemon.layout) as client, pytest.raises(DaemonUnreachable, match="went away"):
        client.operation("vm.create", request=CreateVM())


def test_an_interrupt_cancels_the_operation_and_waits_for_its_end(daemon: FakeDaemon) -> None:
    cancelled, seen = threading.Event(), threading.Event()

    def boot(_: Call) -> Reply:
        def lines() -> Iterator[Any]:
            yield {"stage": "wait_for_guest"}
            seen.wait(20)
            time.sleep(0.1)  # Python sees a signal that comes just before a system call only after it
            os.kill(os.getpid(), signal.SIGINT)
            cancelled.wait(20)

        return Reply(lines=lines())

    def cancel(_: Call) -> Reply:
        cancelled.set()
        operation = {"id": "op-0123456789ab", "kind": "vm.create", "target": "box", "state": "running", "stage": "", "started_at": 1.0, "updated_at": 1.0}
        return Reply(operation)

    daemon.routes["POST /v1/vms"] = boot
    daemon.routes["DELETE /v1/operations/op-0123456789ab"] = cancel
    daemon.routes["GET /v1/operations/op-0123456789ab/events"] = Reply(lines=[{"done": True, "error": {"code": "cancelled", "message": "cancelled"}}])
    with Client.connect(daemon.layout) as client, pytest.raises(KeyboardInterrupt):
        client.operation("vm.create", request=CreateVM(), on_event=lambda _: seen.set())
    assert daemon.paths()[-2:] == ["DELETE /v1/operations/op-0123456789ab", "GET /v1/operations/op-0123456789ab/events"]


def test_another_version_is_refused_before_anything_changes(tmp_path: Path) -> None:
    with running(tmp_path, version="9.9.9") as daemon:
        daemon.routes["GET /v1/daemon"] = Reply(STATUS)
        daemon.routes["DELETE /v1/daemon"] = Reply(STATUS)
        with Client.connect(daemon.layout) as client:
            with pytest.raises(BadVersion, match=r"9\.9\.9") as caught:
                client.operation("vm.stop", {"ref": "box"}, StopVM())
            assert "banger daemon stop" in caught.value.hint
            assert client.call("daemon.status").pid == 1
            assert client.call("daemon.stop").pid == 1
    assert "POST /v1/vms/box/stop" not in daemon.paths()


def test_a_reply_that_makes_no_sense_is_one_clear_error(daemon: FakeDaemon) -> None:
    daemon.routes["GET /v1/vms"] = Reply({"surprise": 1})
    with Client.connect(daemon.layout) as client, pytest.raises(BadVersion):
        client.call("vm.list")
    daemon.routes["GET /v1/vms"] = Reply("no error object", status=500)
    with Client.connect(daemon.layout) as client, pytest.raises(BangerError):
        client.call("vm.list")


def test_attach_hands_over_every_byte_after_the_answer(daemon: FakeDaemon) -> None:
    daemon.streams["t1"] = lambda guest: guest.sock.sendall(b"first bytes")
    with Client.connect(daemon.layout) as client:
        with client.attach("t1") as sock:
            assert sock.recv(100, 0) == b"first bytes"
        with pytest.raises(Unauthorized, match="unknown token"):
            client.attach("other")


@pytest.mark.parametrize("mode", [0o755, 0o770])
def test_a_runtime_directory_that_others_can_reach_is_refused(daemon: FakeDaemon, mode: int) -> None:
    daemon.layout.runtime.chmod(mode)
    with pytest.raises(Unauthorized, match="mode"):
        Client.connect(daemon.layout)


def test_no_daemon_and_no_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DaemonUnreachable):
        Client.connect(Layout.from_environment({"BANGER_HOME": str(tmp_path)}), start=False)
    monkeypatch.setenv("BANGER_SOCKET", str(tmp_path / "none.sock"))
    with pytest.raises(DaemonUnreachable, match="nobody listens"):
        Client.connect()
    assert not (tmp_path / "state").exists()


DAEMON = """
    import os, pathlib, sys, time
    sys.path[:0] = {path!r}
    from tests.unit.client.fake_daemon import FakeDaemon, Reply
    from banger.host.locks import try_lock
    from banger.host.paths import Layout
    layout = Layout.from_environment()
    with open(layout.state / "started", "a") as file:
        file.write(f"{{os.getpid()}}\\n")
    if try_lock(layout.daemon_lock) is None:
        sys.exit("another daemon has the lock")
    daemon = FakeDaemon(layout)
    daemon.routes["GET /v1/vms"] = Reply([])
    daemon.serve()
    while not (layout.state / "stop").exists():
        time.sleep(0.02)
    daemon.close()
"""


@pytest.fixture
def startable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Layout]:
    """An instance whose daemon is a fake that can be started by argv."""
    script = tmp_path / "fake_bangerd.py"
    script.write_text(textwrap.dedent(DAEMON).format(path=[p for p in sys.path if p]))
    home = tmp_path / "home"
    monkeypatch.setenv("BANGER_HOME", str(home))
    monkeypatch.delenv("BANGER_SOCKET", raising=False)
    monkeypatch.setattr(start_module, "daemon_command", lambda: [sys.executable, str(script)])
    layout = Layout.from_environment({"BANGER_HOME": str(home)})
    yield layout
    if layout.state.exists():
        (layout.state / "stop").touch()
        for pid in pids(layout):
            _wait_gone(pid)


def pids(layout: Layout) -> list[int]:
    return [int(line) for line in (layout.state / "started").read_text().split()]


def _wait_gone(pid: int) -> None:
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)


def test_many_first_callers_start_one_daemon(startable: Layout) -> None:
    results: list[object] = []

    def first_call() -> None:
        with Client.connect() as client:
            results.append(client.call("vm.list"))

    threads = [threading.Thread(target=first_call) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert results == [()] * 6
    assert len(pids(startable)) == 1


def test_a_stale_socket_is_replaced_by_a_new_daemon(startable: Layout) -> None:
    startable.runtime.mkdir(parents=True, mode=0o700)
    listen(startable.api_socket).close()
    with Client.connect() as client:
        assert client.call("vm.list") == ()


def test_a_daemon_that_dies_at_once_is_explained(startable: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start_module, "_LAST_CHANCE", 0.1)
    program = 'import sys; print(\'{"message": "the disk is on fire", "level": "error"}\'); sys.exit(1)'
    monkeypatch.setattr(start_module, "daemon_command", lambda: [sys.executable, "-c", program])
    began = time.monotonic()
    with pytest.raises(DaemonUnreachable, match="the disk is on fire") as caught:
        Client.connect()
    assert time.monotonic() - began < start_module.START_DEADLINE
    assert str(startable.daemon_log) in caught.value.hint
    startable.state.joinpath("started").touch()


def test_the_client_is_quick_to_import() -> None:
    slow = {"asyncio", "ssl", "http.client", "rich", "starlette", "subprocess"}
    code = f"import sys, banger.client, banger.client.stream; print(*sorted({slow} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
    assert done.stdout.strip() == ""
