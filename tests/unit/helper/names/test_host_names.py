"""The host's resolver: what systemd-resolved is told (by a stand-in that notes it; the laboratory has the real one), and what else can be done."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from banger.helper.names import HostNames, recipe
from banger.helper.names import recipes as recipes_module
from banger.helper.names import resolved as resolved_module
from banger.helper.names.resolved import domains
from banger.model.errors import BadRequest, CommandFailed
from banger.model.network import network_plan

PLAN = network_plan("bngtest0", "172.30.99.0/24")
STATUS = """Link 7 (bngtest0)
    Current Scopes: DNS
         Protocols: -DefaultRoute -LLMNR -mDNS -DNSOverTLS DNSSEC=no/unsupported
Current DNS Server: 127.0.0.1:42069
       DNS Servers: 127.0.0.1:42069
        DNS Domain: ~vm ~99.30.172.in-addr.arpa
"""


class Resolved:
    """A stand-in for resolvectl on PATH, and for the socket that shows that systemd-resolved runs."""

    def __init__(self, directory: Path) -> None:
        self.calls = directory / "calls"
        self.status = directory / "status"
        self.status.write_text("Link 7 (bngtest0)\n")
        program = directory / "resolvectl"
        program.write_text(
            f"""#!/bin/sh
            echo "$*" >>{self.calls}
            case $1 in status) cat {self.status} ;; esac
            [ ! -e {directory}/fails-"$1" ] || {{ echo broken >&2; exit 1; }}
            """
        )
        program.chmod(0o755)
        self._directory = directory

    def fail(self, verb: str) -> None:
        (self._directory / f"fails-{verb}").touch()

    def called(self) -> list[str]:
        lines = self.calls.read_text().splitlines() if self.calls.exists() else []
        self.calls.unlink(missing_ok=True)
        return lines


@pytest.fixture
def resolved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Resolved]:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(resolved_module, "SOCKET", tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen(16)
        yield Resolved(tmp_path)


async def test_it_is_told_once(resolved: Resolved) -> None:
    names = HostNames(PLAN)
    assert await names.route_resolver(42069) == ""
    assert resolved.called() == [
        "status --no-pager bngtest0",
        "dns bngtest0 127.0.0.1:42069",
        "domain bngtest0 ~vm ~99.30.172.in-addr.arpa",
        "default-route bngtest0 no",
        "dnssec bngtest0 no",
        "dnsovertls bngtest0 no",
        "llmnr bngtest0 no",
    ]
    resolved.status.write_text(STATUS)
    assert await names.route_resolver(42069) == ""
    assert resolved.called() == ["status --no-pager bngtest0"]
    assert await names.route_resolver(42070) == ""
    assert "dns bngtest0 127.0.0.1:42070" in resolved.called()


async def test_what_it_must_take_and_what_it_may_refuse(resolved: Resolved) -> None:
    resolved.fail("dnsovertls")
    assert await HostNames(PLAN).route_resolver(42069) == ""
    resolved.fail("domain")
    with pytest.raises(CommandFailed, match=r"resolvectl domain bngtest0 .* failed with status 1:\nbroken"):
        await HostNames(PLAN).route_resolver(42069)


async def test_clearing(resolved: Resolved, monkeypatch: pytest.MonkeyPatch) -> None:
    await HostNames(PLAN).clear_resolver()
    assert resolved.called() == []  # there is no such link
    await HostNames(network_plan("lo")).clear_resolver()
    assert resolved.called() == ["revert lo"]


async def test_a_port_that_cannot_be_meant(resolved: Resolved) -> None:
    with pytest.raises(BadRequest):
        await HostNames(PLAN).route_resolver(53)
    assert resolved.called() == []


async def test_without_it_there_is_a_recipe(resolved: Resolved, tmp_path: Path) -> None:
    (tmp_path / "socket").unlink()
    assert await HostNames(PLAN).route_resolver(42069) == recipe("bngtest0", 42069) != ""
    await HostNames(PLAN).clear_resolver()
    assert resolved.called() == []


@pytest.mark.parametrize(
    ("directories", "installed", "expected"),
    [
        ([], True, "sudo apt-get install systemd-resolved"),
        (["run/NetworkManager"], False, "sudo apt-get install systemd-resolved"),
        (["run/NetworkManager", "etc/dnsmasq.d"], True, "echo server=/vm/127.0.0.1#42069 | sudo tee /etc/NetworkManager/dnsmasq.d/banger.conf"),
        (["etc/dnsmasq.d"], True, r"printf 'server=/vm/127.0.0.1#42069\nbind-dynamic\nexcept-interface=banger0\n' | sudo tee /etc/dnsmasq.d/banger.conf"),
    ],
)
def test_recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, directories: list[str], installed: bool, expected: str) -> None:
    for one in directories:
        (tmp_path / one).mkdir(parents=True)
    monkeypatch.setattr(recipes_module, "_installed", lambda _: installed)
    assert expected in recipe("banger0", 42069, root=tmp_path)


@pytest.mark.parametrize(
    ("subnet", "expected"),
    [
        ("172.30.86.0/24", ("~vm", "~86.30.172.in-addr.arpa")),
        ("172.30.0.0/16", ("~vm", "~30.172.in-addr.arpa")),
        ("10.1.2.0/23", ("~vm", "~2.1.10.in-addr.arpa", "~3.1.10.in-addr.arpa")),
        ("10.1.0.0/17", ("~vm",)),
        ("10.1.2.0/29", ("~vm",)),
    ],
)
def test_only_whole_reverse_zones_are_asked_for(subnet: str, expected: tuple[str, ...]) -> None:
    assert domains(IPv4Network(subnet)) == expected


@pytest.mark.root
async def test_port_53_of_a_bridge_that_is_not_there_yet() -> None:
    pair = await HostNames(PLAN).bind_dns()
    assert {sock.getsockname() for sock in pair} == {("172.30.99.1", 53)}
    for sock in pair:
        sock.close()
