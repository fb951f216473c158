"""Calls that look at machines and settings, and what counts as using a machine."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from banger.daemon.app import configuration
from banger.daemon.main import EXIT_FAILED
from banger.guest.agent import FileSystem, GuestStats
from banger.guest.frames import Frame, FrameType
from banger.host.paths import Layout
from banger.model.config import Config
from banger.model.errors import ChannelLost
from banger.vm.observe import ProcessUsage, Usage
from tests.unit.daemon.harness import Running, request
from tests.unit.daemon.test_attach import open_stream
from tests.unit.daemon.test_main import answers, ended, served, spawn, until


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout.from_environment({"BANGER_HOME": str(tmp_path / "home")})


async def test_stats(daemon: Running) -> None:
    one = daemon.machines.add(name="box")
    plain = (await daemon.call("GET", "/v1/vms/box/stats")).json
    assert (plain["name"], plain["state"], plain["process"], plain["guest"], plain["work_allocated_bytes"]) == ("box", "running", None, None, 2)
    daemon.machines.the_usage = Usage(
        record=one,
        collected_at=7.0,
        overlay_allocated=1,
        work_allocated=2,
        process=ProcessUsage(pid=5, cpu_percent=12.5, cpu_window=0.1, cpu_seconds=3.0, rss=4096, pss=None),
        guest=GuestStats(
            uptime_us=1_500_000, memory_total=10, memory_available=4, load=0.5, processes=3, file_systems=(FileSystem(path="/", size=9, available=8),)
        ),
    )
    full = (await daemon.call("GET", "/v1/vms/box/stats")).json
    assert (full["process"]["cpu_percent"], full["process"]["pss_bytes"], full["guest"]["uptime"]) == (12.5, None, 1.5)
    assert full["guest"]["file_systems"] == [{"path": "/", "size_bytes": 9, "available_bytes": 8}]


async def test_health_ping_ports_and_touch(daemon: Running) -> None:
    daemon.machines.add(name="box")
    assert (await daemon.call("GET", "/v1/vms/box/health")).json["guest_state"] == "booted"
    assert (await daemon.call("GET", "/v1/vms/box/ping")).json == {"name": "box", "alive": True}
    (port,) = (await daemon.call("GET", "/v1/vms/box/ports")).json["ports"]
    assert (port["addresses"], port["port"], port["endpoint"], port["http_status"]) == (["0.0.0.0", "::"], 80, "", 200)
    (port,) = (await daemon.call("GET", "/v1/vms/box/ports?probe=0")).json["ports"]
    assert port["http_status"] is None
    assert (await daemon.call("POST", "/v1/vms/box/touch")).json["name"] == "box"
    assert daemon.machines.touched == ["box"]
    for call in ("GET stats", "GET health", "GET ping", "GET ports", "POST touch"):
        method, verb = call.split()
        assert (await daemon.call(method, f"/v1/vms/ghost/{verb}")).error["code"] == "not_found"


async def test_a_command_is_a_use_from_beginning_to_end(daemon: Running) -> None:
    wire, stream = await open_stream(daemon)
    assert daemon.machines.touched == ["box"]
    assert len(daemon.machines.streams) == 1
    stream.on_frame(Frame(FrameType.RESULT, 1, b""))
    assert daemon.machines.streams == []
    await wire.close()


async def test_a_client_that_leaves_uses_nothing_any_more(daemon: Running) -> None:
    wire, stream = await open_stream(daemon)
    await wire.close()
    await stream.cancelled.wait()
    assert daemon.machines.streams == []


async def test_a_stream_that_cannot_be_opened_is_no_use(daemon: Running) -> None:
    daemon.machines.add(name="box")
    ticket = (await daemon.call("POST", "/v1/vms/box/exec", {"argv": ["true"]})).json
    daemon.machines.the_agent.refusal = ChannelLost("gone")
    wire = await daemon.attach()
    assert (await wire.hello(ticket["token"]))["error"]["code"] == "channel_lost"
    assert daemon.machines.streams == []
    await wire.close()


async def test_ttl_and_idle_reach_the_machine(daemon: Running) -> None:
    await daemon.call("POST", "/v1/vms?wait", {"name": "box", "ttl": 60, "idle": 0})
    assert (daemon.machines.new[0].ttl_seconds, daemon.machines.new[0].idle_seconds) == (60.0, 0.0)


async def test_config_show(daemon: Running) -> None:
    daemon.machines.config = replace(Config(), auto_stop_stale_after=60.0, sources={"auto_stop_stale_after": "config"})
    report = (await daemon.call("GET", "/v1/config")).json
    assert report["path"] == str(daemon.layout.config_file)
    shown = {one["key"]: (one["value"], one["source"]) for one in report["settings"]}
    assert shown["auto_stop_stale_after"] == ("60s", "config")
    assert shown["vm_defaults.vcpu"] == (2, "auto")


def test_the_file_decides_the_log_level_unless_somebody_else_did(tmp_path: Path) -> None:
    here = Layout.from_environment({"BANGER_HOME": str(tmp_path)})
    here.config.mkdir()
    here.config_file.write_text("log_level = 'error'")
    before = logging.getLogger().level
    try:
        assert configuration(here, ("debug", "env")).log_level == "debug"
        assert logging.getLogger().level == before
        assert configuration(here, None).sources == {"log_level": "config"}
        assert logging.getLogger().level == logging.ERROR
    finally:
        logging.getLogger().setLevel(before)


def test_a_bad_file_is_the_one_error_of_every_command(layout: Layout) -> None:
    layout.config.mkdir(parents=True, mode=0o700)
    layout.state.parent.chmod(0o700)
    layout.config_file.write_text("log_levle = 'debug'\n")
    for path in ("/v1/vms", "/v1/config"):
        process = spawn(layout)
        until(lambda: answers(layout))
        error = request(layout.api_socket, "GET", path).error
        assert (error["code"], error["message"]) == ("bad_request", f"{layout.config_file}: unknown key log_levle")
        assert error["hint"] == "did you mean log_level?"
        assert not layout.api_socket.exists(), "whoever comes later starts another daemon"
        status, said = ended(process)
        assert status == EXIT_FAILED
        assert "did you mean log_level?" in said


def test_a_good_file_is_in_force(layout: Layout) -> None:
    layout.config.mkdir(parents=True, mode=0o700)
    layout.state.parent.chmod(0o700)
    layout.config_file.write_text("log_level = 'debug'\n[vm_defaults]\nvcpu = 7\n")
    with served(layout):
        settings = request(layout.api_socket, "GET", "/v1/config").json["settings"]
        assert {one["key"]: (one["value"], one["source"]) for one in settings}["log_level"] == ("debug", "config")
        assert request(layout.api_socket, "GET", "/v1/defaults").json["vcpu_count"] == 7
