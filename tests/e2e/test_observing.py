"""Looking at a real machine, what counts as using it, and that an idle one is stopped."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.e2e.instance import Instance, wait_until

pytestmark = pytest.mark.timeout(200)

LISTEN = """
import http.server, socket, threading
class Dual(http.server.ThreadingHTTPServer):
    def __init__(self, family, host):
        self.address_family = family
        super().__init__((host, 8080), http.server.SimpleHTTPRequestHandler)
    def server_bind(self):
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        super().server_bind()
silent = socket.create_server(("127.0.0.1", 8081))
servers = [Dual(socket.AF_INET, "0.0.0.0"), Dual(socket.AF_INET6, "::")]
print("up", flush=True)
threading.Thread(target=servers[1].serve_forever, daemon=True).start()
servers[0].serve_forever()
"""


@contextmanager
def listener(instance: Instance, box: str) -> Iterator[None]:
    """A program in the machine that serves HTTP on port 8080 of IPv4 and IPv6, and listens without a word on 8081."""
    with instance.started("vm", "exec", "-n", box, "--", "python3", "-c", LISTEN) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        yield


def state(instance: Instance, name: str) -> str:
    return str(instance.json("vm", "show", name)["record"]["state"])


def test_stats(instance: Instance, box: str) -> None:
    (target,) = instance.json("vm", "stats", box)
    result = target["result"]
    assert 0 <= result["process"]["cpu_percent"] < 6400
    assert result["process"]["rss_bytes"] > 32 << 20
    assert result["process"]["pss_bytes"] is None or 0 < result["process"]["pss_bytes"] <= result["process"]["rss_bytes"] * 1.1
    assert 0 < result["guest"]["memory_available_bytes"] < result["guest"]["memory_total_bytes"]
    assert {"/", "/root"} <= {one["path"] for one in result["guest"]["file_systems"]}
    assert result["work_allocated_bytes"] > 0
    assert box in instance.ok("vm", "stats")


def test_stats_are_followed(instance: Instance, box: str) -> None:
    with instance.started("vm", "stats", box, "--follow", "--interval", "0.3", "--json") as process:
        assert process.stdout is not None
        looks = [json.loads(process.stdout.readline()) for _ in range(3)]
    assert [look["name"] for look in looks] == [box] * 3
    assert looks[2]["process"]["cpu_window"] >= 0.3


def test_health_and_ping(instance: Instance, box: str) -> None:
    health = instance.json("vm", "health", box)
    assert health["healthy"] and health["guest_state"] == "booted" and 0 < health["round_trip"] < 3
    assert instance.json("vm", "ping", box) == {"name": box, "alive": True}
    assert instance.ok("vm", "health", box).startswith(f"{box} is healthy (booted, ")


def test_ports(instance: Instance, box: str) -> None:
    def ports(*options: str) -> dict[int, dict[str, Any]]:
        return {port["port"]: port for port in instance.json("vm", "ports", box, *options)[0]["result"]["ports"]}

    with listener(instance, box):
        wait_until(lambda: ports()[8080]["http_status"] == 200, "the server answers within a second")
        found, silent = (one := ports())[8080], one[8081]
        assert (found["protocol"], found["process"], found["endpoint"]) == ("tcp", "python3", "")
        assert set(found["addresses"]) == {"0.0.0.0", "::"}
        assert (silent["addresses"], silent["http_status"]) == (["127.0.0.1"], None)
        assert any(
            line.split()[1:] == ["tcp", "8080", "*", "python3", "http", "200", "not", "published"] for line in instance.ok("vm", "ports", box).splitlines()
        )
        assert {port["http_status"] for port in ports("--no-probe").values()} == {None}


def test_an_idle_machine_is_stopped_and_a_used_one_is_not(instance: Instance) -> None:
    name = instance.ok("vm", "run", "-d", "--idle", "3s").strip()
    instance.ok("vm", "exec", name, "--", "sleep", "5")
    assert state(instance, name) == "running"
    used = time.monotonic()
    wait_until(lambda: state(instance, name) == "stopped", "the idle machine is stopped", 120)
    assert time.monotonic() - used > 1
    assert instance.json("vm", "show", name)["record"]["runtime"]["last_stop_reason"] == "nobody has used it for 3s (--idle)"
    assert "nobody has used it for 3s (--idle)" in instance.ok("vm", "show", name)
    assert instance.run("vm", "ping", name).status == 1
    assert instance.run("vm", "health", name).status == 1
    instance.ok("vm", "delete", name)


def test_ttl_survives_the_daemon(instance: Instance) -> None:
    name = instance.ok("vm", "run", "-d", "--ttl", "6s").strip()
    instance.stop_daemon()
    assert instance.json("vm", "show", name)["record"]["spec"]["ttl_seconds"] == 6
    wait_until(lambda: state(instance, name) == "stopped", "its time is over", 60)
    assert instance.json("vm", "show", name)["record"]["runtime"]["last_stop_reason"] == "it has run for 6s (--ttl)"
    instance.ok("vm", "delete", name)


def test_a_configuration_decides_what_machines_get(fresh: Instance) -> None:
    folder = fresh.home / "config"
    folder.mkdir(parents=True, mode=0o700)
    (folder / "config.toml").write_text("[vm_defaults]\nvcpus = 3\n")
    for words in (("vm", "list"), ("config", "show")):
        done = fresh.run(*words)
        assert done.status != 0
        assert done.err.splitlines()[:2] == [f"banger: {folder}/config.toml: unknown key vm_defaults.vcpus", "hint: did you mean vm_defaults.vcpu?"]
    (folder / "config.toml").write_text("[vm_defaults]\nvcpu = 3\n")
    shown = {one["key"]: (one["value"], one["source"]) for one in fresh.json("config", "show")["settings"]}
    assert shown["vm_defaults.vcpu"] == (3, "config")
    assert shown["vm_defaults.disk_size"] == ("8G", "builtin")
