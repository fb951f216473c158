"""Calls about files and jobs in a machine: what reaches its agent, and what comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest

from banger.daemon import file_calls, job_calls
from banger.guest.fields import Fields
from banger.guest.file_messages import PathStatus
from banger.guest.frames import Operation
from banger.guest.job_messages import GuestJob
from banger.guest.outcome import NOT_STARTED, ExecOutcome
from banger.model.errors import GuestError
from banger.model.records import VMState
from tests.unit.daemon.harness import FakeAgent, Running

JOB = GuestJob(
    id="job-1",
    pid=7,
    state="ended",
    exit_status=3,
    started_at=1.5,
    ended_at=2.5,
    command="make test",
    user="root",
    stdout_bytes=4,
    stderr_bytes=5,
    truncated=True,
)


class ScriptedAgent(FakeAgent):
    """Answers what the tests say, and notes what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Any] = []
        self.answer: Any = None

    def _answering(self, *asked: Any) -> Any:
        self.asked.append(asked)
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer

    async def stat_path(self, path: str, *, follow: bool = False) -> PathStatus:
        return cast(PathStatus, await self._slow(path, follow))

    async def start_job(self, request: bytes) -> int | ExecOutcome:
        return cast(int, await self._slow(Fields.parse(request)))

    async def jobs(self, id: str = "") -> tuple[GuestJob, ...]:
        return await self._slow("jobs", id) or (JOB,)

    async def signal_job(self, id: str, number: int) -> None:
        await self._slow("signal", id, number)

    async def _slow(self, *asked: Any) -> Any:
        found = self._answering(*asked)
        return await found() if callable(found) else found


@pytest.fixture
def agent(daemon: Running) -> ScriptedAgent:
    daemon.machines.add(name="box")
    daemon.machines.the_agent = ScriptedAgent()
    return daemon.machines.the_agent


def refusal(message: str, code: str) -> GuestError:
    error = GuestError(message)
    error.guest_code = code
    return error


async def never() -> None:
    await asyncio.Event().wait()


async def stream_of(daemon: Running, path: str, body: object) -> tuple[int, Fields]:
    """Operation and request of the stream that a ticket leads to."""
    reply = await daemon.call("POST", f"/v1/vms/box/{path}", body)
    assert reply.status == 200, reply.body
    wire = await daemon.attach()
    assert await wire.hello(reply.json["token"]) == {"ok": True}
    stream = daemon.machines.the_agent.streams[-1]
    await wire.close()
    return stream.operation, Fields.parse(stream.request)


async def test_files_are_streams_of_the_guests_own_operations(daemon: Running, agent: ScriptedAgent) -> None:
    operation, fields = await stream_of(daemon, "unpack", {"destination": "/srv", "uid": 5, "gid": 6, "parents": True, "replace": True})
    assert (operation, fields.text(16), fields.u32(17), fields.u32(18), fields.u32(19)) == (Operation.UNPACK, "/srv", 5, 6, 3)
    operation, fields = await stream_of(daemon, "unpack", {"destination": "/srv"})
    assert (fields.u32(17, 99), fields.u32(18, 99), fields.u32(19, 0)) == (99, 99, 0)
    operation, fields = await stream_of(daemon, "pack", {"path": "/etc", "name": "conf", "contents": True})
    assert (operation, fields.text(16)) == (Operation.PACK, "/etc")
    assert daemon.machines.touched == ["box"] * 3


async def test_what_is_at_a_path(daemon: Running, agent: ScriptedAgent) -> None:
    agent.answer = PathStatus(kind="symlink", mode=0o777, size=3, uid=1, gid=2, mtime_ns=9, target="etc", real_path="/etc")
    reply = (await daemon.call("POST", "/v1/vms/box/stat", {"path": "/x", "follow": True})).json
    assert agent.asked == [("/x", True)]
    assert (reply["kind"], reply["mode"], reply["target"], reply["real_path"]) == ("symlink", 0o777, "etc", "/etc")
    agent.answer = refusal("/x: No such file or directory", "not_found")
    assert (await daemon.call("POST", "/v1/vms/box/stat", {"path": "/x"})).json["kind"] == "missing"
    agent.answer = refusal("/x: Input/output error", "io")
    reply_of_failure = await daemon.call("POST", "/v1/vms/box/stat", {"path": "/x"})
    assert "Input/output" in reply_of_failure.error["message"]


async def test_a_job_starts_under_a_fresh_or_a_given_id(daemon: Running, agent: ScriptedAgent) -> None:
    agent.answer = 4711
    first = (await daemon.call("POST", "/v1/vms/box/jobs", {"argv": ["make", "all"], "env": {"A": "b"}, "cwd": "/src", "user": "me"})).json
    second = (await daemon.call("POST", "/v1/vms/box/jobs", {"argv": ["true"]})).json
    assert first["pid"] == 4711 and first["exit_status"] is None and first["id"] != second["id"]
    ((fields,), _) = agent.asked
    assert (fields.texts(16), fields.texts(17), fields.text(18), fields.text(19), fields.text(30)) == (("make", "all"), ("A=b",), "/src", "me", first["id"])
    assert (await daemon.call("POST", "/v1/vms/box/jobs", {"argv": ["true"], "id": "nightly"})).json["id"] == "nightly"


async def test_a_command_that_cannot_be_started_is_no_failed_call(daemon: Running, agent: ScriptedAgent) -> None:
    agent.answer = ExecOutcome(NOT_STARTED, 2, "exec nope: No such file or directory")
    reply = await daemon.call("POST", "/v1/vms/box/jobs", {"argv": ["nope"]})
    assert reply.status == 200
    assert (reply.json["exit_status"], reply.json["pid"]) == (127, 0)
    assert "nope" in reply.json["message"]


@pytest.mark.parametrize("body", [{"argv": []}, {"argv": ["x"], "id": "Not An Id"}, {"argv": ["x" * 70_000]}, {"argv": ["a\0b"]}, {}])
async def test_jobs_that_make_no_sense_never_reach_the_guest(daemon: Running, agent: ScriptedAgent, body: object) -> None:
    reply = await daemon.call("POST", "/v1/vms/box/jobs", body)
    assert reply.status == 400 and reply.error["code"] == "bad_request"
    assert agent.asked == []


async def test_jobs_are_listed_signalled_and_read(daemon: Running, agent: ScriptedAgent) -> None:
    (listed,) = (await daemon.call("GET", "/v1/vms/box/jobs?id=job-1")).json
    assert listed == {
        "id": "job-1", "pid": 7, "state": "ended", "exit_status": 3, "started_at": 1.5, "ended_at": 2.5, "command": "make test", "user": "root",
        "stdout_bytes": 4, "stderr_bytes": 5, "truncated": True,
    }  # fmt: skip
    assert (await daemon.call("POST", "/v1/vms/box/jobs/job-1/signal", {"signal": "KILL"})).json == listed
    assert agent.asked == [("jobs", "job-1"), ("signal", "job-1", 9), ("jobs", "job-1")]
    assert (await daemon.call("POST", "/v1/vms/box/jobs/job-1/signal", {"signal": "SIGNONSENSE"})).error["code"] == "bad_request"
    operation, fields = await stream_of(daemon, "jobs/job-1/output", {"which": "stderr", "offset": 10, "follow": True})
    assert (operation, fields.text(30)) == (Operation.JOB_OUTPUT, "job-1")


async def test_a_job_that_is_not_there(daemon: Running, agent: ScriptedAgent) -> None:
    agent.answer = refusal("no job job-9", "not_found")
    reply = await daemon.call("POST", "/v1/vms/box/jobs/job-9/signal", {})
    assert (reply.status, reply.error["code"], reply.error["hint"]) == (404, "not_found", "banger vm jobs box")
    agent.answer = refusal("too many jobs", "too_many_jobs")
    assert "too many" in (await daemon.call("POST", "/v1/vms/box/jobs", {"argv": ["true"]})).error["message"]


@pytest.mark.parametrize("path, body", [("stat", {"path": "/x"}), ("jobs", {"argv": ["true"]})])
async def test_a_guest_that_does_not_answer_is_given_up(
    daemon: Running, agent: ScriptedAgent, monkeypatch: pytest.MonkeyPatch, path: str, body: object
) -> None:
    monkeypatch.setattr(file_calls, "STAT_SECONDS", 0.05)
    monkeypatch.setattr(job_calls, "ANSWER_SECONDS", 0.05)
    silent: Callable[[], Awaitable[None]] = never
    agent.answer = silent
    reply = await daemon.call("POST", f"/v1/vms/box/{path}", body)
    assert reply.error["code"] == "guest_timeout" and "banger vm logs box" in reply.error["hint"]


@pytest.mark.parametrize("method, path, body", [("POST", "unpack", {"destination": "/"}), ("POST", "stat", {"path": "/"}), ("GET", "jobs", None)])
async def test_a_machine_that_does_not_run(daemon: Running, method: str, path: str, body: object) -> None:
    daemon.machines.add(name="off", state=VMState.STOPPED)
    assert (await daemon.call(method, f"/v1/vms/off/{path}", body)).error["code"] == "not_running"
    assert (await daemon.call(method, f"/v1/vms/ghost/{path}", body)).error["code"] == "not_found"
