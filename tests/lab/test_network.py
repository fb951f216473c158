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


def fetch(system: Installed, machine: str, address: str) -> Done:
    return inside(system, machine, f"wget -T 5 -q -O - http://{address}/")


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
            assert fetch(system, box, f"{address}:8080").status != 0, address
    finally:
        system.laboratory.sh("systemctl stop host-server")


def test_machines_do_not_reach_each_other(system: Installed, box: str, peer: str) -> None:
    inside(system, peer, "echo peer >/index.html; httpd -p 80 -h /")
    address = address_of(system, peer)
    assert system.laboratory.ok("curl", "-s", f"http://{address}/") == "peer\n"
    assert inside(system, box, f"ping -q -c 1 -W 3 {address}").status != 0
    assert fetch(system, box, address).status != 0


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
    assert fetch(system, box, SERVER).out == "outside\n"
    assert fetch(system, peer, SERVER).status != 0
    assert visitors(system.laboratory) == {UPLINK}, "guests are seen by the host's address alone"
    assert fetch(system, box, ROUTER).status != 0, "neighbours of the host are closed"
    system.ok("vm", "set", "--no-nat", box)
    assert fetch(system, box, SERVER).status != 0
    system.ok("vm", "set", "--nat", box, peer)
    assert [fetch(system, machine, SERVER).out for machine in (box, peer)] == ["outside\n", "outside\n"]


def test_the_outside_does_not_reach_in(system: Installed, box: str) -> None:
    address = address_of(system, box)
    system.laboratory.sh(f"ip -n outside route replace 172.30.86.0/24 via {UPLINK}")
    done = system.laboratory.run("ip", "netns", "exec", "outside", "ping", "-q", "-c", "1", "-W", "2", address)
    assert done.status == 1, done
