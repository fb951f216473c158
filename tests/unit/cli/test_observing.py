"""``vm stats``, ``ports``, ``health``, ``ping``, ``touch`` and ``config show`` against a scripted daemon."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.unit.cli.conftest import Shell, record
from tests.unit.client.fake_daemon import Call, FakeDaemon, Reply, failure

STATS: dict[str, Any] = {
    "id": "1",
    "name": "box",
    "state": "running",
    "collected_at": 1.0,
    "overlay_allocated_bytes": 1 << 20,
    "work_allocated_bytes": 2 << 20,
    "process": {"pid": 5, "cpu_percent": 12.34, "cpu_window": 0.1, "cpu_seconds": 3.0, "rss_bytes": 300 << 20, "pss_bytes": None},
    "guest": {
        "uptime": 5.0,
        "memory_total_bytes": 1 << 30,
        "memory_available_bytes": 1 << 29,
        "load": 0.25,
        "processes": 42,
        "file_systems": [{"path": "/", "size_bytes": 100, "available_bytes": 75}, {"path": "/root", "size_bytes": 0, "available_bytes": 0}],
    },
}
STOPPED = STATS | {"name": "off", "state": "stopped", "process": None, "guest": None}
PORTS = {
    "id": "1",
    "name": "box",
    "ports": [
        {"protocol": "tcp", "addresses": ["0.0.0.0", "::"], "port": 80, "process": "nginx", "command": "nginx", "http_status": 200},
        {"protocol": "udp", "addresses": ["127.0.0.1", "::1"], "port": 53, "process": "", "command": "", "endpoint": "box.vm:53"},
    ],
}


def test_stats_of_named_machines(daemon: FakeDaemon, banger: Shell) -> None:
    daemon.routes["GET /v1/vms/box/stats"] = Reply(STATS)
    head, row = banger("vm", "stats", "box").out.splitlines()
    assert head.split() == ["NAME", "STATE", "CPU", "RSS", "PSS", "DISK", "GUEST", "MEM", "LOAD", "PROCS", "GUEST", "DISK"]
    assert row.split() == ["box", "running", "12.3%", "300M", "-", "3M", "512M/1G", "0.25", "42", "/", "25%,", "/root", "-"]
    assert banger("vm", "stats", "box", "--json").json[0]["result"]["process"]["pss_bytes"] is None


def test_stats_of_all_that_run(daemon: FakeDaemon, banger: Shell) -> None:
    daemon.routes["GET /v1/vms"] = Reply([record("box", 1), record("off", 2, state="stopped")])
    daemon.routes[f"GET /v1/vms/{1:032x}/stats"] = Reply(STATS)
    assert [line.split()[0] for line in banger("vm", "stats").out.splitlines()] == ["NAME", "box"]
    daemon.routes["GET /v1/vms"] = Reply([])
    assert banger("vm", "stats").out.splitlines()[1:] == []
    assert banger("vm", "stats", "--json").json == []


def test_stats_of_a_stopped_and_of_an_unknown_machine(daemon: FakeDaemon, banger: Shell) -> None:
    daemon.routes["GET /v1/vms"] = Reply([])
    daemon.routes["GET /v1/vms/off/stats"] = Reply(STOPPED)
    daemon.routes["GET /v1/vms/ghost/stats"] = failure(404, "not_found", "no machine 'ghost'")
    result = banger("vm", "stats", "off", "ghost")
    assert result.status == 1
    assert result.out.splitlines()[1].split() == ["off", "stopped", "-", "-", "-", "3M", "-", "-", "-", "-"]
    assert "banger: no machine 'ghost'" in result.err


def test_stats_are_followed_until_the_machine_is_deleted(daemon: FakeDaemon, banger: Shell) -> None:
    looks: list[Call] = []

    def stats(call: Call) -> Reply:
        looks.append(call)
        return Reply(STATS) if len(looks) < 4 else failure(404, "not_found", "no machine 'box'")

    daemon.routes["GET /v1/vms/box/stats"] = stats
    result = banger("vm", "stats", "box", "--follow", "--interval", "0.2", "--json")
    assert [json.loads(line)["name"] for line in result.out.splitlines()] == ["box"] * 3
    assert "no machine 'box'" in result.err


def test_ports(daemon: FakeDaemon, banger: Shell) -> None:
    daemon.routes["GET /v1/vms/box/ports"] = Reply(PORTS)
    _, web, names = banger("vm", "ports", "box").out.splitlines()
    assert web.split() == ["box", "tcp", "80", "*", "nginx", "http", "200", "not", "published"]
    assert names.split() == ["box", "udp", "53", "127.0.0.1,", "::1", "-", "-", "box.vm:53"]
    shown = banger("vm", "ports", "box", "--json").json[0]["result"]["ports"]
    assert [(port["port"], port["http_status"]) for port in shown] == [(80, 200), (53, None)]
    assert banger("vm", "ports", "box", "--no-probe").status == 0
    assert [call.query for call in daemon.calls if call.path.endswith("/ports")] == ["", "", "probe=0"]
    daemon.routes["GET /v1/vms/box/ports"] = failure(409, "not_running", "box is not running", hint="banger vm start box")
    assert banger("vm", "ports", "box").status == 1


@pytest.mark.parametrize("healthy", [True, False])
def test_health_and_ping(daemon: FakeDaemon, banger: Shell, healthy: bool) -> None:
    reply = {"name": "box", "alive": healthy, "healthy": healthy, "guest_state": "booted" if healthy else "", "round_trip": 0.0015 if healthy else None}
    daemon.routes["GET /v1/vms/box/health"] = Reply(reply)
    daemon.routes["GET /v1/vms/box/ping"] = Reply({"name": "box", "alive": healthy})
    health, ping = banger("vm", "health", "box"), banger("vm", "ping", "box")
    assert (health.status, ping.status) == ((0, 0) if healthy else (1, 1))
    assert health.out == ("box is healthy (booted, 1.5 ms)\n" if healthy else "box does not run\n")
    assert ping.out == ("box is alive\n" if healthy else "box is not alive\n")
    assert banger("vm", "health", "box", "--json").json == reply | {"trouble": ""}
    assert banger("vm", "ping", "box", "--json").json["alive"] is healthy


def test_one_that_answers_and_is_cut_off_is_not_healthy(daemon: FakeDaemon, banger: Shell) -> None:
    reply = {"name": "box", "alive": True, "healthy": False, "guest_state": "booted", "round_trip": 0.0015, "trouble": "it has no network"}
    daemon.routes["GET /v1/vms/box/health"] = Reply(reply)
    found = banger("vm", "health", "box")
    assert (found.status, found.out) == (1, "box answers (booted), but it has no network: banger vm restart box\n")


def test_an_agent_that_does_not_answer_is_an_error(daemon: FakeDaemon, banger: Shell) -> None:
    daemon.routes["GET /v1/vms/box/health"] = failure(504, "guest_timeout", "the agent in box did not answer within 3 s")
    result = banger("vm", "health", "box")
    assert (result.status, result.out) == (1, "")
    assert "did not answer" in result.err


def test_touch(daemon: FakeDaemon, banger: Shell) -> None:
    daemon.routes["POST /v1/vms/box/touch"] = Reply(record())
    assert banger("vm", "touch", "box").out == "box\n"


def test_config_show(daemon: FakeDaemon, banger: Shell) -> None:
    settings = [{"key": "log_level", "value": "debug", "source": "env"}, {"key": "vm_defaults.vcpu", "value": 4, "source": "auto"}]
    daemon.routes["GET /v1/config"] = Reply({"path": "/c/config.toml", "settings": settings})
    out = banger("config", "show").out.splitlines()
    assert [line.split() for line in out] == [
        ["KEY", "VALUE", "SOURCE"],
        ["log_level", "debug", "env"],
        ["vm_defaults.vcpu", "4", "auto"],
        [],
        ["file:", "/c/config.toml"],
    ]
    assert banger("config", "show", "--json").json["settings"] == settings


def test_show_says_when_and_why_it_stops(daemon: FakeDaemon, banger: Shell) -> None:
    spec = record()["spec"] | {"ttl_seconds": 7200.0, "idle_seconds": 1800.0}
    shown = {"record": record(spec=spec, state="stopped", runtime={"last_stop_reason": "it has run for 2h (--ttl)"}), "alive": False, "pid": None}
    paths = {"directory": "/d", "console_log": "/c", "vmm_log": "/v", "overlay_allocated_bytes": 0, "work_allocated_bytes": 0}
    daemon.routes["GET /v1/vms/box"] = Reply(shown | paths)
    out = banger("vm", "show", "box").out
    assert "2h after its start, or when nobody has used it for 30m" in out
    assert "it has run for 2h (--ttl)" in out
