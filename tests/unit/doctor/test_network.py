"""Checks of the network, in network namespaces of their own, by the command itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from banger.doctor import firewalls, network
from tests.net.namespaces import Namespace, namespace
from tests.unit.doctor.grounds import BRIDGED, make_ground, put

ROOT = pytest.mark.skipif(os.getuid() != 0, reason="only root makes network namespaces")
CONFIG = '[network]\nmode = "bridge"\nbridge = "bgrdoc0"\nsubnet = "10.213.7.0/24"\ndns_port = 42111\n'


class Host:
    """A network namespace, and an instance that wants a bridge in it."""

    def __init__(self, net: Namespace, home: Path) -> None:
        self.net = net
        self._home = home
        (home / "config").mkdir(parents=True, mode=0o700)
        (home / "config/config.toml").write_text(CONFIG)

    def doctor(self, *words: str) -> dict[str, dict[str, Any]]:
        argv = ["ip", "netns", "exec", self.net.name, sys.executable, "-m", "banger.cli.main", "doctor", "--json", *words]
        done = subprocess.run(argv, env={**os.environ, "BANGER_HOME": str(self._home)}, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        assert done.returncode in (0, 1, 2), done.stderr
        assert done.stdout, done.stderr
        return {check["id"]: check for check in json.loads(done.stdout)}

    def network(self) -> dict[str, str]:
        """Status by id, of this group."""
        return {ident.removeprefix("network."): check["status"] for ident, check in self.doctor().items() if check["group"] == "network"}


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    with namespace("doctor") as net:
        yield Host(net, tmp_path / "bridged")


def test_without_a_bridge_only_passt_counts(tmp_path: Path) -> None:
    ground = make_ground(tmp_path)
    assert network.mode(ground).status == "pass"
    assert network.passt(ground).status == "pass"
    assert {look(ground).status for _, _, look in (*network.CHECKS[2:], *firewalls.CHECKS)} == {"skip"}


@ROOT
def test_a_host_where_all_is_free_and_nothing_is_changed(host: Host) -> None:
    before = host.net.sh("ip -details link; ip address; ip route show table all; nft list ruleset; sysctl -n net.ipv4.ip_forward")
    found = host.network()
    assert host.net.sh("ip -details link; ip address; ip route show table all; nft list ruleset; sysctl -n net.ipv4.ip_forward") == before
    expected = dict.fromkeys(("mode", "nftables", "bridge", "subnet", "forwarding", "br-netfilter", "dns-port", "guest-dns-port", "firewalls"), "pass")
    assert {ident: found[ident] for ident in expected} == expected
    assert found["passt"] == "skip"


@ROOT
def test_what_is_in_the_way(host: Host) -> None:
    host.net.sh("ip link add bgrdoc0 type veth peer name vpn0; ip link set bgrdoc0 up; ip address add 10.213.0.1/16 dev vpn0; ip link set vpn0 up")
    host.net.sh("nft 'add table inet others; add chain inet others forward { type filter hook forward priority 0; policy drop; }'")
    found = host.doctor()
    assert (found["network.bridge"]["status"], "not ours" in found["network.bridge"]["detail"]) == ("fail", True)
    assert (found["network.subnet"]["status"], "vpn0" in found["network.subnet"]["detail"]) == ("fail", True)
    drops = found["network.firewalls"]
    assert (drops["status"], drops["fixable"]) == ("warn", True)
    assert drops["remedy"].startswith("sudo nft insert rule inet others forward iifname bgrdoc0 accept && ")

    # Not even --yes touches what is others'.
    before = host.net.sh("nft list ruleset")
    assert host.doctor("--fix", "--yes")["network.firewalls"]["fix"] == "declined"
    assert host.net.sh("nft list ruleset") == before


@ROOT
def test_the_remedy_of_a_foreign_firewall_is_enough(host: Host) -> None:
    host.net.sh("nft 'add table ip filter; add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }'")
    drops = host.doctor()["network.firewalls"]
    host.net.sh(drops["remedy"].replace("sudo ", ""))
    assert host.network()["firewalls"] == "pass"


@ROOT
def test_a_port_that_somebody_has(host: Host) -> None:
    holder = "import socket, sys, time; s = socket.socket(type=socket.SOCK_DGRAM); s.bind(('0.0.0.0', 42111)); print('bound', flush=True); time.sleep(60)"
    with subprocess.Popen(["ip", "netns", "exec", host.net.name, sys.executable, "-c", holder], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            found = host.doctor()["network.dns-port"]
        finally:
            process.kill()
    assert found["status"] == "warn"
    assert f"udp port 42111 of 127.0.0.1 is held by python3 (pid {process.pid})" in found["detail"].replace("python ", "python3 ")
    assert "dns_port" in found["remedy"]


@ROOT
def test_our_bridge_that_has_broken(host: Host) -> None:
    host.net.sh("ip link add bgrdoc0 type bridge; ip link set bgrdoc0 alias banger")
    found = host.doctor()
    assert (found["network.bridge"]["status"], "is down" in found["network.bridge"]["detail"]) == ("warn", True)
    assert found["network.forwarding"]["remedy"] == "sudo sysctl -w net.ipv4.ip_forward=1"
    host.net.sh("sysctl -w net.ipv4.ip_forward=1; ip link set bgrdoc0 up; ip address add 10.213.7.1/24 dev bgrdoc0")
    found = host.doctor()
    assert (found["network.bridge"]["status"], found["network.forwarding"]["status"]) == ("pass", "pass")


def test_firewalls_seen_by_an_ordinary_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    ground = make_ground(tmp_path, config=BRIDGED)
    assert "neither" in firewalls.foreign(ground).detail
    put(ground, "/etc/ufw/ufw.conf", "ENABLED=yes\n")
    ground.at("/sys/class/net/docker0").mkdir(parents=True)
    assert firewalls.foreign(ground).detail.startswith("ufw, Docker here")


def test_what_a_reload_of_nftables_does(tmp_path: Path) -> None:
    ground = make_ground(tmp_path, config=BRIDGED)
    assert "not enabled" in firewalls.reload(ground).detail
    put(ground, "/etc/nftables.conf", "#!/usr/sbin/nft -f\n\nflush ruleset\n")
    wants = put(ground, "/etc/systemd/system/sysinit.target.wants/x").parent
    (wants / "nftables.service").symlink_to("/lib/systemd/system/nftables.service")
    assert "flushes all tables" in firewalls.reload(ground).detail


def test_the_resolver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ground = make_ground(tmp_path, config=BRIDGED)
    monkeypatch.setattr(network, "is_running", lambda: False)
    assert network.resolver(ground).status == "warn"
    assert "42069" in network.resolver(ground).remedy
    monkeypatch.setattr(network, "is_running", lambda: True)
    put(ground, "/etc/resolv.conf", "nameserver 192.0.2.1\n")
    found = network.resolver(ground)
    assert (found.status, found.fix is not None and found.fix.foreign) == ("warn", True)
    put(ground, "/etc/resolv.conf", "nameserver 127.0.0.53\n")
    assert network.resolver(ground).status == "pass"
    put(ground, "/etc/resolv.conf", "")
    put(ground, "/etc/nsswitch.conf", "hosts: files resolve dns\n")
    assert network.resolver(ground).status == "pass"
