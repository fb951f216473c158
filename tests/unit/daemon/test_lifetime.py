from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from banger.daemon import server
from banger.daemon.context import Context
from banger.daemon.lifetime import Daemon
from banger.host.paths import Layout, private_directory
from banger.host.sockets import listen
from banger.model.errors import BadRequest
from tests.unit.daemon.harness import request, running


async def test_a_graceful_stop_leaves_no_socket_and_no_task(tmp_path: Path) -> None:
    before = asyncio.all_tasks()
    async with running(tmp_path / "home") as daemon:
        daemon.machines.add(name="box")
        ticket = (await daemon.call("POST", "/v1/vms/box/exec", {})).json
        wire, silent = await daemon.attach(), await daemon.attach()
        await wire.hello(ticket["token"])
        reader, writer = await asyncio.open_unix_connection(str(daemon.layout.api_socket))
        writer.write(b"POST /v1/vms HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n12345POST")
        await reader.readuntil(b"\r\n\r\n")
        assert await daemon.stop() is None
        assert daemon.machines.closed
        assert list(daemon.layout.runtime.iterdir()) == []
        for stream in (wire, silent):
            await stream.close()
        writer.close()
    assert asyncio.all_tasks() - before == set()


async def test_operations_that_run_are_cancelled_by_a_stop_and_their_callers_told(tmp_path: Path) -> None:
    async with running(tmp_path / "home") as daemon:
        daemon.machines.may_boot.clear()
        waiting = asyncio.create_task(daemon.call("POST", "/v1/vms?wait", {"name": "box"}))
        await daemon.machines.reserved.wait()
        await daemon.context.operations.close(grace=0.0, deadline=5.0)
        await daemon.stop()
        assert (await waiting).lines[-1]["error"]["code"] == "cancelled"


async def test_a_request_that_never_becomes_complete_does_not_hold_up_a_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "SHUTDOWN_SECONDS", 0.05)
    async with running(tmp_path / "home") as daemon:
        reader, writer = await asyncio.open_unix_connection(str(daemon.layout.api_socket))
        writer.write(b"POST /v1/vms HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n123")
        await daemon.call("GET", "/v1/vms")
        assert await daemon.stop() is None
        assert (await reader.read()).startswith(b"HTTP/1.1 500 ")
        writer.close()


async def test_who_comes_after_the_reason_was_told_does_not_hear_it_again(tmp_path: Path) -> None:
    """It may have been mended: the next caller must find no socket, and start another daemon."""

    def refuse(*_: object) -> Context:
        raise BadRequest("config.toml is wrong")

    layout = Layout.from_environment({"BANGER_HOME": str(tmp_path / "home")})
    private_directory(layout.runtime)
    private_directory(layout.state)
    with listen(layout.api_socket) as api, listen(layout.attach_socket) as attach:
        serving = asyncio.create_task(Daemon(layout, refuse).run(api, attach))
        reply = await asyncio.to_thread(request, layout.api_socket, "GET", "/v1/vms", None, None)
        assert reply.error["message"] == "config.toml is wrong"
        assert list(layout.runtime.iterdir()) == []
        assert str(await serving) == "config.toml is wrong"
