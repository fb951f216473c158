from __future__ import annotations

import asyncio
import http.client
import json
import socket
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from banger import __version__
from banger.api.routes import ROUTES
from banger.daemon import server
from banger.daemon.calls import ANSWERS, MAX_LOG_CHUNK, WORKS, read_log
from banger.daemon.dispatch import MAX_BODY
from banger.host.sockets import Peer
from banger.model.errors import (
    AlreadyExists,
    BadRequest,
    BangerError,
    ChannelLost,
    MissingTool,
    NotFound,
    NotRunning,
    StoreError,
    Unauthorized,
    VmmError,
)
from banger.model.opid import OP_ID_PATTERN
from tests.unit.daemon.harness import Running, UnixConnection, connection, running


def test_every_route_has_exactly_one_handler() -> None:
    own = {"daemon.status", "daemon.stop", "operation.events", "events"}
    assert {route.name for route in ROUTES if route.kind == "operation"} == set(WORKS)
    assert {route.name for route in ROUTES if route.kind != "operation"} - own == set(ANSWERS)


# -- replies -----------------------------------------------------------------------------------------------------------------------------------------


async def test_reads(daemon: Running) -> None:
    one = daemon.machines.add(name="box")
    status = await daemon.call("GET", "/v1/daemon")
    assert status.status == 200 and status.headers["content-type"] == "application/json"
    assert status.headers["banger-version"] == __version__ and OP_ID_PATTERN.fullmatch(status.headers["banger-op-id"])
    assert status.json["running_vms"] == 1 and status.json["socket"] == str(daemon.layout.api_socket)
    assert [vm["id"] for vm in (await daemon.call("GET", "/v1/vms")).json] == [one.id]
    shown = (await daemon.call("GET", "/v1/vms/box")).json
    assert shown["record"]["state"] == "running" and shown["pid"] == 4711 and shown["work_allocated_bytes"] == 2
    assert (await daemon.call("GET", "/v1/defaults")).json["memory_mib"] == 2048
    assert (await daemon.call("GET", "/v1/images")).json[0]["name"] == "debian-bookworm"
    assert (await daemon.call("GET", "/v1/images/debian-bookworm")).status == 200
    assert (await daemon.call("GET", "/v1/images/nope")).error["code"] == "not_found"
    assert (await daemon.call("GET", "/v1/kernels")).json == []
    assert (await daemon.call("GET", "/v1/catalog/images")).json == []
    assert (await daemon.call("GET", "/v1/openapi.json")).json["openapi"] == "3.1.0"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (BadRequest("m", hint="h"), 400),
        (Unauthorized("m", hint="h"), 403),
        (NotFound("m", hint="h"), 404),
        (AlreadyExists("m", hint="h"), 409),
        (NotRunning("m", hint="h", vm="box"), 409),
        (MissingTool("m", hint="h"), 500),
        (ChannelLost("m", hint="h"), 500),
        (StoreError("m", hint="h"), 500),
        (VmmError("m", hint="h"), 500),
        (BangerError("m", hint="h"), 500),
    ],
)
async def test_expected_errors(daemon: Running, error: BangerError, status: int) -> None:
    daemon.machines.error = error
    reply = await daemon.call("GET", "/v1/vms/box")
    assert reply.status == status
    assert reply.json == {"error": {"code": error.code, "message": "m", "hint": "h", "op_id": reply.headers["banger-op-id"], "vm": error.vm}}


async def test_unexpected_errors_are_logged_and_not_shown(daemon: Running, caplog: pytest.LogCaptureFixture) -> None:
    daemon.machines.error = ZeroDivisionError("the secret")
    reply = await daemon.call("GET", "/v1/vms/box")
    assert reply.status == 500 and reply.error["code"] == "operation_failed" and reply.error["message"] == "internal error: ZeroDivisionError"
    assert "the secret" in caplog.text and "Traceback" in caplog.text and b"secret" not in reply.body
    daemon.machines.error = None
    assert (await daemon.call("GET", "/v1/vms")).status == 200


@pytest.mark.parametrize("call", ["GET /", "GET /v1/nope", "PUT /v1/vms", "POST /v1/daemon", "GET /v1/vms/a/b/c", "GET /v1/vms/"])
async def test_unknown_calls(daemon: Running, call: str) -> None:
    method, _, path = call.partition(" ")
    reply = await daemon.call(method, path)
    assert reply.status == 404 and reply.error["code"] == "unknown_method" and method in reply.error["message"]


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("/v1/vms", b"nope", "JSON is malformed"),
        ("/v1/vms", b"\xff\xfe", "malformed"),
        ("/v1/vms", b"[" * 100_000, "object"),
        ("/v1/vms", {"nmae": "box"}, "unknown field `nmae`"),
        ("/v1/vms", {"vcpu_count": "2"}, "$.vcpu_count"),
        ("/v1/vms", {"wait": "later"}, "$.wait"),
        ("/v1/images", b"", "missing required field `reference`"),
        ("/v1/vms?wat", {}, "no query parameter 'wat'"),
        ("/v1/leases", {"x": 1}, "takes no body"),
    ],
)
async def test_bad_requests(daemon: Running, path: str, body: object, words: str) -> None:
    reply = await daemon.call("POST", path, body)
    assert reply.status == 400 and reply.error["code"] == "bad_request" and words in reply.error["message"]
    assert daemon.machines.new == []


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_request_that_is_too_large_is_refused_and_the_connection_stays_usable(daemon: Running, chunked: bool) -> None:
    piece = b" " * 65536
    pieces = MAX_BODY // len(piece) + 4

    def ask() -> tuple[int, Any, int]:
        with connection(daemon.layout.api_socket) as one:
            headers = {} if chunked else {"Content-Length": str(pieces * len(piece))}
            one.request("POST", "/v1/vms", body=iter([piece] * pieces), headers=headers, encode_chunked=chunked)
            response = one.getresponse()
            body = json.loads(response.read())
            one.request("GET", "/v1/vms")
            return response.status, body["error"], one.getresponse().status

    status, error, second = await asyncio.to_thread(ask)
    assert (status, error["code"], second) == (400, "bad_request", 200) and "1024 KiB" in error["message"]


async def test_versions(daemon: Running) -> None:
    assert (await daemon.call("GET", "/v1/vms", headers={"Banger-Api-Version": "1"})).status == 200
    reply = await daemon.call("GET", "/v1/vms", headers={"Banger-Api-Version": "2"})
    assert reply.status == 400 and reply.error["code"] == "bad_version" and "banger daemon stop" in reply.error["hint"]
    assert (await daemon.call("GET", "/v1/daemon", headers={"Banger-Api-Version": "2"})).status == 200
    assert (await daemon.call("DELETE", "/v1/daemon", headers={"Banger-Api-Version": "2"})).status == 200
    assert await daemon.task is None


@pytest.mark.parametrize("garbage", [b"\0\1\r\n\r\n", b"GET\r\n\r\n", b"GET /\xc3\xa4 HTTP/1.1\r\nHost: x\r\n\r\n", b"GET / HTTP/1.1\r\nX: " + b"x" * 200_000])
async def test_what_is_not_http_gets_an_answer_and_does_no_harm(daemon: Running, garbage: bytes) -> None:
    def ask() -> bytes:
        with socket.socket(socket.AF_UNIX) as one:
            one.settimeout(10)
            one.connect(str(daemon.layout.api_socket))
            received = b""
            try:
                one.sendall(garbage)
                while data := one.recv(65536):
                    received += data
            except ConnectionError:  # it may close before it has read everything
                pass
            return received

    head, _, body = (await asyncio.to_thread(ask)).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ") and json.loads(body)["error"]["code"] == "bad_request"
    assert (await daemon.call("GET", "/v1/vms")).status == 200


async def test_another_user_is_refused(daemon: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "peer_of", lambda sock: Peer(pid=1, uid=54321, gid=54321))
    reply = await daemon.call("GET", "/v1/daemon")
    assert reply.status == 403 and reply.error["code"] == "unauthorized" and "54321" in reply.error["message"]
    monkeypatch.setattr(server, "peer_of", lambda sock: Peer(pid=1, uid=0, gid=0))
    assert (await daemon.call("GET", "/v1/daemon")).status == 200


async def test_calls_wait_until_machines_are_recovered_but_status_does_not(tmp_path: Path) -> None:
    recovered = asyncio.Event()
    async with running(tmp_path / "home", lambda machines, _: setattr(machines, "recovering", recovered)) as daemon:
        assert (await daemon.call("GET", "/v1/daemon")).status == 200
        waiting = asyncio.create_task(daemon.call("GET", "/v1/vms"))
        done, _ = await asyncio.wait({waiting}, timeout=0.1)
        assert not done
        recovered.set()
        assert (await waiting).status == 200


async def test_stopping_while_machines_are_recovered(tmp_path: Path) -> None:
    async with running(tmp_path / "home", lambda machines, _: setattr(machines, "recovering", asyncio.Event())) as daemon:
        waiting = asyncio.create_task(daemon.call("GET", "/v1/vms"))
        await asyncio.sleep(0.05)
        assert (await daemon.call("DELETE", "/v1/daemon")).status == 200
        assert (await waiting).error["message"] == "the daemon is stopping"
        assert await daemon.task is None and daemon.machines.closed


# -- operations --------------------------------------------------------------------------------------------------------------------------------------


async def test_an_operation_without_wait(daemon: Running) -> None:
    daemon.machines.may_boot.clear()
    reply = await daemon.call("POST", "/v1/vms", {"name": "box", "wait": "booted", "vcpu_count": 3})
    operation = reply.json
    assert reply.status == 202 and operation["state"] == "running" and operation["kind"] == "vm.create"
    assert operation["id"] == reply.headers["banger-op-id"] and reply.headers["location"] == f"/v1/operations/{operation['id']}"
    assert daemon.machines.new[0].wait_booted and daemon.machines.new[0].vcpu_count == 3 and not daemon.machines.new[0].remove
    daemon.machines.may_boot.set()
    events = await daemon.call("GET", f"/v1/operations/{operation['id']}/events")
    assert [event["stage"] for event in events.lines] == ["resolve_image", "reserve_vm", "reserve_vm"]
    assert events.lines[-1]["result"]["name"] == "box"
    assert (await daemon.call("GET", reply.headers["location"])).json["state"] == "done"
    assert [one["id"] for one in (await daemon.call("GET", "/v1/operations")).json] == [operation["id"]]


@pytest.mark.parametrize(
    ("method", "path", "body", "event", "result"),
    [
        ("POST", "/v1/vms/box/start?wait", {"wait": "booted"}, "booted=True", "running"),
        ("POST", "/v1/vms/box/start?wait=1", None, "booted=False", "running"),
        ("POST", "/v1/vms/box/restart?wait", {}, "booted=False", "running"),
        ("POST", "/v1/vms/box/stop?wait", {"timeout": 3}, "timeout=3.0", "stopped"),
        ("POST", "/v1/vms/box/kill?wait", {"signal": "KILL"}, "KILL", "stopped"),
    ],
)
async def test_verbs(daemon: Running, method: str, path: str, body: object, event: str, result: str) -> None:
    daemon.machines.add(name="box")
    reply = await daemon.call(method, path, body)
    assert reply.status == 200 and reply.headers["content-type"] == "application/x-ndjson"
    assert reply.lines[0]["message"] == event
    assert reply.lines[-1]["done"] and reply.lines[-1]["result"]["state"] == result


async def test_deletions(daemon: Running) -> None:
    one = daemon.machines.add(name="box")
    assert (await daemon.call("DELETE", "/v1/vms/box?wait")).lines[-1]["result"] == {"id": one.id, "name": "box"}
    gone = (await daemon.call("DELETE", "/v1/vms/box?wait")).lines[-1]
    assert gone["error"]["code"] == "not_found" and gone["error"]["hint"] == "banger vm list shows all"
    assert (await daemon.call("DELETE", "/v1/images/debian-bookworm?wait")).lines[-1]["result"]["name"] == "debian-bookworm"


class Stream:
    """A ``?wait`` request whose lines are read one by one, in threads."""

    def __init__(self, daemon: Running, path: str, body: object) -> None:
        self._connection = UnixConnection(daemon.layout.api_socket)
        self._path, self._body = path, body
        self._response: http.client.HTTPResponse | None = None

    async def __aenter__(self) -> Stream:
        await asyncio.to_thread(self._connection.request, "POST", self._path, json.dumps(self._body))
        self._response = await asyncio.to_thread(self._connection.getresponse)
        return self

    async def line(self) -> dict[str, Any]:
        assert self._response is not None
        return dict(json.loads(await asyncio.to_thread(self._response.readline)))

    async def __aexit__(self, *_: object) -> None:
        assert self._response is not None
        self._response.close()
        self._connection.close()


async def test_events_are_sent_at_once(daemon: Running) -> None:
    daemon.machines.may_reserve.clear()
    async with Stream(daemon, "/v1/vms?wait", {"name": "box"}) as stream:
        assert (await stream.line())["stage"] == "resolve_image"
        daemon.machines.may_reserve.set()
        assert (await stream.line())["progress"] == 0.5
        assert (await stream.line())["done"] is True


async def test_a_creation_ends_with_its_caller_until_the_row_is_reserved(daemon: Running) -> None:
    daemon.machines.may_reserve.clear()
    async with Stream(daemon, "/v1/vms?wait", {"name": "box"}) as stream:
        await stream.line()
    await daemon.machines.cancelled.wait()
    assert daemon.machines.list() == ()

    daemon.machines.cancelled.clear()
    daemon.machines.may_reserve.set()
    daemon.machines.may_boot.clear()
    async with Stream(daemon, "/v1/vms?wait", {"name": "box"}) as stream:
        await stream.line()
        await daemon.machines.reserved.wait()
    operation = (await daemon.call("GET", "/v1/operations")).json[0]
    assert operation["state"] == "running" and operation["target"] == "box"
    daemon.machines.may_boot.set()
    assert (await daemon.call("GET", f"/v1/operations/{operation['id']}/events")).lines[-1]["result"]["name"] == "box"
    assert not daemon.machines.cancelled.is_set()


async def test_a_creation_that_nobody_waits_for_is_not_cancelled_by_a_follower_that_leaves(daemon: Running) -> None:
    daemon.machines.may_reserve.clear()
    operation = (await daemon.call("POST", "/v1/vms", {"name": "box"})).json
    with connection(daemon.layout.api_socket) as one:
        await asyncio.to_thread(one.request, "GET", f"/v1/operations/{operation['id']}/events")
        response = await asyncio.to_thread(one.getresponse)
        await asyncio.to_thread(response.readline)
        response.close()
    daemon.machines.may_reserve.set()
    assert (await daemon.call("GET", f"/v1/operations/{operation['id']}/events")).lines[-1]["result"]["name"] == "box"


async def test_the_callers_logins_reach_whoever_pulls(daemon: Running) -> None:
    """A path, and only one that means the same to the daemon."""
    daemon.images.may_finish.set()
    await daemon.call("POST", "/v1/images?wait", {"reference": "ghcr.io/acme/dev:1", "credentials": "/home/me/auth.json"})
    assert [wish.credentials for wish in daemon.images.wishes] == ["/home/me/auth.json"]
    await daemon.call("POST", "/v1/vms?wait", {"name": "box", "credentials": "/home/me/auth.json"})
    assert [new.credentials for new in daemon.machines.new] == ["/home/me/auth.json"]
    for path, body in (("/v1/images", {"reference": "a"}), ("/v1/vms", {"name": "b"})):
        refused = await daemon.call("POST", f"{path}?wait", body | {"credentials": "auth.json"})
        assert "is not an absolute path" in str(refused.lines[-1])


async def test_a_pull_ends_with_its_caller(daemon: Running) -> None:
    async with Stream(daemon, "/v1/images?wait", {"reference": "debian-bookworm"}) as stream:
        assert (await stream.line())["stage"] == "auto_pull_image"
    await daemon.images.cancelled.wait()


async def test_cancel(daemon: Running) -> None:
    daemon.machines.may_boot.clear()
    operation = (await daemon.call("POST", "/v1/vms", {"name": "box"})).json
    await daemon.machines.reserved.wait()
    assert (await daemon.call("DELETE", f"/v1/operations/{operation['id']}")).json["id"] == operation["id"]
    last = (await daemon.call("GET", f"/v1/operations/{operation['id']}/events")).lines[-1]
    assert last["error"]["code"] == "cancelled" and last["error"]["op_id"] == operation["id"]
    assert (await daemon.call("DELETE", f"/v1/operations/{operation['id']}")).json["state"] == "cancelled"
    missing = await daemon.call("GET", "/v1/operations/op-000000000000/events")
    assert missing.status == 404 and missing.error["code"] == "not_found"


async def test_a_failed_creation_names_the_machine_that_is_left(daemon: Running) -> None:
    daemon.machines.error = VmmError("the VMM died", hint="banger vm logs box", vm="box")
    last = (await daemon.call("POST", "/v1/vms?wait", {"name": "box"})).lines[-1]
    assert last["error"] == {"code": "vmm_error", "message": "the VMM died", "hint": "banger vm logs box", "op_id": last["error"]["op_id"], "vm": "box"}


# -- logs --------------------------------------------------------------------------------------------------------------------------------------------


async def test_logs(daemon: Running) -> None:
    daemon.machines.add(name="box")
    log = daemon.machines.directory / "console.log"
    assert (await daemon.call("GET", "/v1/vms/box/logs")).json == {"text": "", "next_offset": 0, "path": str(log), "exists": False}
    log.write_bytes("line\n\x1b[31mrød".encode())
    first = (await daemon.call("GET", "/v1/vms/box/logs?which=console&offset=0")).json
    assert first["text"] == "line\n\x1b[31mrød" and first["next_offset"] == log.stat().st_size
    assert (await daemon.call("GET", f"/v1/vms/box/logs?offset={first['next_offset']}")).json["text"] == ""
    for query, words in (("which=secrets", "no log 'secrets'"), ("offset=-1", "offset"), ("offset=9" + "9" * 30, "offset"), ("offset=%C2%B2", "offset")):
        reply = await daemon.call("GET", f"/v1/vms/box/logs?{query}")
        assert reply.status == 400 and words in reply.error["message"]


def test_log_chunks_are_bounded_and_never_cut_a_character(tmp_path: Path) -> None:
    log = tmp_path / "log"
    text = "x" + "€" * (MAX_LOG_CHUNK // 2)
    log.write_text(text)
    chunks, offset = [], 0
    while (chunk := read_log(log, offset)).text:
        assert chunk.next_offset - offset <= MAX_LOG_CHUNK
        chunks.append(chunk.text)
        offset = chunk.next_offset
    assert "".join(chunks) == text and len(chunks) > 1
    log.write_bytes(b"short \xff\xe2\x82")
    assert read_log(log, offset).text == "short \N{REPLACEMENT CHARACTER}" and read_log(log, offset).next_offset == 7


@pytest.mark.parametrize("ref", ["../..", "a/b", "%2e", "ä", "a?b"])
async def test_a_reference_may_hold_anything(daemon: Running, ref: str) -> None:
    reply = await daemon.call("POST", f"/v1/vms/{quote(ref, safe='')}/touch")
    assert reply.error["message"] == f"no VM {ref!r}"
