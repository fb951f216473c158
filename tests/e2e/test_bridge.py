"""The bridge network with real machines, on a host of its own: a daemon that is root in a network namespace, with a world outside of it."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial

import pytest

from tests import oracle
from tests.e2e.conftest import Built, on_disk
from tests.e2e.instance import BIN, Instance, wait_until
from tests.net.lab import FAR, HOST, NEAR, PORT, server
from tests.net.namespaces import Namespace, namespace

pytestmark = [pytest.mark.timeout(400), pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="only root makes network namespaces")]

CONFIG = '[network]\nmode = "bridge"\nbridge = "bgre2e"\nsubnet = "172.29.77.0/28"\ntap_pool_size = 2\ndns_port = 42070\n'
GATEWAY, ONE, TWO = "172.29.77.1", "172.29.77.2", "172.29.77.3"
CONNECT = """
import socket, sys
try:
    with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=3) as peer:
        print(peer.recv(100).decode().strip() or "closed")
except OSError as error:
    print("refused", type(error).__name__)
"""
HOLD = """
import socket, sys, time
peer = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=5)
peer.recv(100)
print("open", flush=True)
try:
    for _ in range(200):
        peer.sendall(b"x")
        peer.recv(100)
        time.sleep(0.05)
    print("still open")
except OSError as error:
    print("cut", type(error).__name__)
"""
PING = "import subprocess, sys; print(subprocess.run(['ping', '-c1', '-W2', sys.argv[1]], stdout=subprocess.DEVNULL).returncode)"


@dataclass
class Bridged:
    """A host with two machines: ``one`` may go out, ``two`` may not."""

    instance: Instance
    host: Namespace
    outside: Namespace

    def connects(self, name: str, address: str, port: int = PORT) -> str:
        """What a machine gets when it connects there."""
        return self.instance.ok("vm", "exec", name, "--", "python3", "-c", CONNECT, address, str(port)).strip()

    def from_host(self, address: str, port: int = 22) -> str:
        """What this host gets when it connects there."""
        return self.host.sh(f"python3 -c '{CONNECT}' {address} {port}").strip()

    def greeted_by_sshd(self, address: str) -> bool:
        return self.from_host(address).startswith("SSH-2.0")

    def rules(self) -> str:
        return self.host.sh("nft list ruleset")

    def taps(self) -> set[str]:
        """Ports of the bridge, as the host shows them."""
        lines = self.host.sh("ip -o link show master bgre2e").splitlines()
        return {line.split(": ")[1].split("@")[0] for line in lines}


@pytest.fixture(scope="module")
def bridged(built: Built) -> Iterator[Bridged]:
    place = on_disk("banger-bridge-")
    with ExitStack() as stack:
        host, outside = stack.enter_context(namespace("host")), stack.enter_context(namespace("out"))
        host.sh(f"ip link add up0 type veth peer name down0 netns {outside.name}; ip address add {HOST}/24 dev up0; ip link set up0 up")
        outside.sh(f"ip address add {NEAR}/24 dev down0; ip link set down0 up; ip address add {FAR}/32 dev lo")
        host.sh(f"ip route add default via {NEAR}; echo 0 >/proc/sys/net/ipv4/icmp_ratelimit")
        for where in (host, outside):
            stack.enter_context(server(where, PORT))
        # Not `ip netns exec`: that hides the cgroups, which lie below /sys.
        found = Instance(place / "home", program=("nsenter", f"--net=/run/netns/{host.name}", str(BIN / "banger")))
        share_images(built.instance, found)
        (found.home / "config").mkdir(mode=0o700, exist_ok=True)
        (found.home / "config/config.toml").write_text(CONFIG)
        try:
            found.ok("vm", "run", "-d", "--nat", "--name", "one", "--wait", "booted")
            found.ok("vm", "run", "-d", "--name", "two", "--wait", "booted")
            yield Bridged(found, host, outside)
        finally:
            found.delete_everything()
            wait_until(lambda: not oracle.processes(found), "every process of the instance has ended", 15)
            shutil.rmtree(place)


def share_images(source: Instance, target: Instance) -> None:
    """Image and kernel of the session's instance (records name absolute directories)."""
    target.ok("image", "list")
    target.stop_daemon()
    with closing(sqlite3.connect(source.state / "banger.db")) as old, closing(sqlite3.connect(target.state / "banger.db")) as new, new:
        for table in ("kernels", "images"):
            rows = old.execute(f"SELECT * FROM {table}").fetchall()
            new.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(rows[0]))})", rows)


def test_each_has_an_address_a_tap_and_a_name(bridged: Bridged) -> None:
    shown = bridged.instance.ok("vm", "show", "one")
    assert f"address         {ONE}" in shown
    assert "one.vm" in shown
    assert TWO in bridged.instance.ok("vm", "list")
    assert {"bgre2e-2", "bgre2e-3"} <= bridged.taps()
    assert bridged.instance.ok("vm", "exec", "two", "--", "ip", "-4", "-br", "addr", "show", "scope", "global").split()[-1] == f"{TWO}/28"
    assert bridged.instance.ok("vm", "exec", "two", "--", "cat", "/etc/resolv.conf").split() == ["nameserver", GATEWAY]


def test_the_host_reaches_its_machines(bridged: Bridged) -> None:
    for address in (ONE, TWO):
        bridged.host.sh(f"ping -c1 -W5 {address}")
        wait_until(partial(bridged.greeted_by_sshd, address), f"sshd of {address} answers", 60)


def test_machines_reach_nothing_of_the_host_but_names(bridged: Bridged) -> None:
    for address in (GATEWAY, HOST):
        assert bridged.connects("one", address).startswith("refused")
    script = "import socket; print(socket.gethostbyname('two.vm'))"
    assert bridged.instance.ok("vm", "exec", "one", "--", "python3", "-c", script).strip() == TWO


def test_machines_do_not_see_each_other(bridged: Bridged) -> None:
    assert bridged.connects("one", TWO, 22).startswith("refused")
    assert bridged.connects("two", ONE, 22).startswith("refused")


def test_only_who_has_nat_goes_out_and_as_the_host(bridged: Bridged) -> None:
    assert bridged.connects("one", FAR) == HOST
    assert bridged.connects("two", FAR).startswith("refused")
    assert bridged.connects("one", NEAR).startswith("refused")  # the host's own neighbours


def test_traffic_is_counted(bridged: Bridged) -> None:
    before = bridged.instance.json("vm", "stats", "one")[0]["result"]["network"]
    bridged.connects("one", FAR)
    after = bridged.instance.json("vm", "stats", "one")[0]["result"]["network"]
    assert after["sent_bytes"] > before["sent_bytes"]
    assert after["received_packets"] > before["received_packets"]
    assert bridged.instance.json("vm", "stats", "two")[0]["result"]["network"] is None


def test_nat_is_switched_while_it_runs_and_cuts_what_is_open(bridged: Bridged) -> None:
    with bridged.instance.started("vm", "exec", "one", "--", "python3", "-u", "-c", HOLD, FAR, str(PORT)) as held:
        assert held.stdout is not None
        assert held.stdout.readline() == b"open\n"
        bridged.instance.ok("vm", "set", "one", "--no-nat")
        assert held.stdout.readline().startswith(b"cut")
    assert bridged.connects("one", FAR).startswith("refused")
    bridged.instance.ok("vm", "set", "two", "--nat")
    assert bridged.connects("two", FAR) == HOST
    bridged.instance.ok("vm", "set", "one", "--nat")
    bridged.instance.ok("vm", "set", "two", "--no-nat")
    assert (bridged.connects("one", FAR), bridged.connects("two", FAR)[:7]) == (HOST, "refused")


def test_a_killed_daemon_changes_nothing_and_the_next_knows_all(bridged: Bridged) -> None:
    pid = bridged.instance.daemon_pid()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: bridged.instance.daemon_pid() is None, "the daemon is gone")
    bridged.host.sh(f"ping -c1 -W5 {ONE}")
    assert bridged.connects("one", FAR) == HOST
    assert bridged.connects("two", FAR).startswith("refused")
    assert bridged.instance.json("gc", "--dry-run") == []


def test_rules_that_somebody_flushed_come_back_by_themselves(bridged: Bridged) -> None:
    bridged.host.sh("nft flush ruleset")
    wait_until(lambda: ONE in bridged.rules(), "the rules are there again", 30)
    assert bridged.connects("one", FAR) == HOST
    assert bridged.connects("two", FAR).startswith("refused")
    assert "repaired" in bridged.instance.ok("events")


def test_a_deleted_machine_leaves_nothing_and_the_last_takes_the_network_along(bridged: Bridged) -> None:
    instance = bridged.instance
    instance.ok("vm", "stop", "one")
    assert ONE not in bridged.rules().replace(f". {ONE}", "")  # pins are of all slots
    instance.ok("vm", "delete", "one", "two")
    assert instance.json("vm", "list") == []
    wait_until(lambda: len(bridged.taps()) == 2, "the pool has its size", 10)
    instance.stop_daemon()
    assert bridged.host.sh("ip -o link show type bridge") == ""
    assert "bgre2e" not in bridged.rules()
    assert [path for path in oracle.leftovers(instance) if "journal" in path] == []


def test_a_second_daemon_does_not_take_the_same_bridge(bridged: Bridged) -> None:
    place = on_disk("banger-bridge-")
    other = Instance(place / "home", program=bridged.instance.program)
    try:
        (other.home / "config").mkdir(mode=0o700, parents=True)
        (other.home / "config/config.toml").write_text(CONFIG)
        bridged.instance.ok("vm", "list")
        done = other.run("vm", "list")
        assert done.status != 0
        assert "another daemon uses the bridge bgre2e" in done.err
    finally:
        other.stop_daemon()
        time.sleep(0.1)
        shutil.rmtree(place)
