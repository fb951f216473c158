"""The bridge, as host, machines and the outside see it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.instance import Done
from tests.lab.conftest import Installed
from tests.lab.laboratory import OWNER
from tests.lab.outside import ROUTER, SERVER, UPLINK, outside, visitors

pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(scope="module", autouse=True)
def world(system: Installed) -> Iterator[None]:
    """Something outside, which is there before the first machine: what the host's neighbours are is looked up when the network is made."""
    with outside(system.laboratory):
        yield


def inside(system: Installed, machine: str, script: str) -> Done:
    return system.run("vm", "exec", machine, "--", "sh", "-c", script)


def fetch(system: Installed, machine: str, address: str, port: int = 80) -> str:
    """What a server there has to say to a machine; "" when it is not reached. (A static busybox has no wget that works: glibc wants its plug-ins for names.)"""
    done = inside(system, machine, f"printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {address} {port}")
    assert done.status < 2 and "not found" not in done.err, done
    return done.out.rpartition("\r\n\r\n")[2]


def address_of(system: Installed, machine: str) -> str:
    return str(system.json("vm", "show", machine)["record"]["runtime"]["address"])


def test_host_and_guest_reach_each_other(system: Installed, box: str) -> None:
    address = address_of(system, box)
    inside(system, box, "echo hello >/index.html; httpd -p 80 -h /")
    found = system.laboratory.sh(f"ping -q -c 2 -W 10 {address} | grep received; curl -s http://{address}/", user=OWNER)
    assert "2 received" in found
    assert found.endswith("hello\n")
    assert inside(system, box, "ping -q -c 1 -W 10 172.30.86.1").status == 0


def test_services_of_the_host_are_closed(system: Installed, box: str) -> None:
    serve = "systemd-run --quiet --unit host-server python3 -m http.server --directory /opt 8080"
    system.laboratory.sh(f"{serve}; until curl -s -o /dev/null http://127.0.0.1:8080/; do sleep 0.3; done")
    try:
        for address in ("172.30.86.1", UPLINK):
            assert fetch(system, box, address, 8080) == "", address
    finally:
        system.laboratory.sh("systemctl stop host-server")


def test_machines_do_not_reach_each_other(system: Installed, box: str, peer: str) -> None:
    inside(system, peer, "echo peer >/index.html; httpd -p 80 -h /")
    address = address_of(system, peer)
    assert system.laboratory.ok("curl", "-s", f"http://{address}/") == "peer\n"
    assert inside(system, box, f"ping -q -c 1 -W 3 {address}").status != 0
    assert fetch(system, box, address) == ""


def test_names(system: Installed, box: str) -> None:
    """From the host through systemd-resolved and nsswitch, as any user, forwards and back; and in the guest."""
    address = address_of(system, box)
    script = f"getent ahostsv4 www.{box}.vm; resolvectl query --legend=no {address}; resolvectl query --legend=no -t A {box}.vm"
    found = system.laboratory.sh(script, user=OWNER)
    assert found.splitlines()[0].split()[0] == address
    assert f"{address}: {box}.vm" in found
    assert f"{box}.vm IN A {address}" in found
    assert address in inside(system, box, f"nslookup {box}.vm").out
    assert system.laboratory.run("getent", "hosts", "nobody.vm").status == 2


def test_the_outside_with_and_without_nat(system: Installed, box: str, peer: str) -> None:
    assert fetch(system, box, SERVER) == "outside\n"
    assert fetch(system, peer, SERVER) == ""
    assert visitors(system.laboratory) == {UPLINK}, "guests are seen by the host's address alone"
    assert fetch(system, box, ROUTER) == "", "neighbours of the host are closed"
    system.ok("vm", "set", "--no-nat", box)
    assert fetch(system, box, SERVER) == ""
    system.ok("vm", "set", "--nat", box, peer)
    assert [fetch(system, machine, SERVER) for machine in (box, peer)] == ["outside\n", "outside\n"]


def test_the_outside_does_not_reach_in(system: Installed, box: str) -> None:
    address = address_of(system, box)
    system.laboratory.sh(f"ip -n outside route replace 172.30.86.0/24 via {UPLINK}")
    done = system.laboratory.run("ip", "netns", "exec", "outside", "ping", "-q", "-c", "1", "-W", "2", address)
    assert done.status == 1, done
