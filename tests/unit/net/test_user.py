"""The user-mode network, with the real passt."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from banger.host import process, sockets
from banger.host.paths import VMLayout
from banger.host.run import run, spawn
from banger.model.errors import CommandFailed, MissingTool
from banger.model.machine import NetworkCard
from banger.model.names import new_id
from banger.net import passt, user
from banger.net.protocol import Attachment, ListsHelpers, Network, NetworkPlace
from banger.net.user import UserNetwork, mac_of
from tests.unit.net.card import SYN_ACK, Card, tcp_syn, udp

needs_passt = pytest.mark.skipif(shutil.which("passt") is None, reason="needs passt")
VM = new_id()
NOWHERE = NetworkPlace()


@pytest.fixture
def files(tmp_path: Path) -> VMLayout:
    # As deep as a real one may lie: longer than the path of a unix socket.
    root = tmp_path / ("d" * 100) / VM
    root.mkdir(parents=True, mode=0o700)
    return VMLayout(root)


@pytest.fixture
async def network(files: VMLayout) -> AsyncIterator[UserNetwork]:
    made = UserNetwork()
    yield made
    await made.detach(VM, files, NOWHERE)


def outward_address() -> str:
    """An address of this host other than the loopback; connect(2) on UDP sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.254", 9))
        except OSError:
            pytest.skip("this host has no route, so passt cannot run")
        return str(probe.getsockname()[0])


def helpers() -> list[bytes]:
    wanted = passt.helper_name(VM).encode()
    return [words[0] for _, words in process.command_lines() if wanted in words or words[0] == b"passt-" + wanted]


async def gone(attachment: Attachment) -> None:
    assert attachment.helper is not None
    async with asyncio.timeout(20):
        await process.wait_exit(attachment.helper)
    assert helpers() == []


@contextlib.contextmanager
def listening(address: str) -> Iterator[tuple[socket.socket, socket.socket, int]]:
    """A TCP and a UDP listener on one port."""
    with socket.create_server((address, 0)) as tcp, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        port = tcp.getsockname()[1]
        datagrams.bind((address, port))
        tcp.settimeout(5)
        datagrams.settimeout(5)
        yield tcp, datagrams, port


async def test_without_nat_there_is_no_card(network: UserNetwork, files: VMLayout) -> None:
    driver: Network = network
    assert await driver.attach(VM, files, NOWHERE, nat=False, uid=-1) == Attachment(mode="none", card=None, helper=None)
    await driver.detach(VM, files, NOWHERE)
    assert list(files.root.iterdir()) == []


async def test_without_passt_the_built_in_network_comes_with_a_warning(network: UserNetwork, files: VMLayout, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Path:
        raise MissingTool(f"{name} is not installed", hint=f"sudo apt-get install {name}")

    monkeypatch.setattr(user, "find_tool", missing)
    attachment = await network.attach(VM, files, NOWHERE, nat=True, uid=-1)
    assert attachment.mode == "builtin"
    assert attachment.card is not None
    assert attachment.card.socket is None
    assert attachment.card.nameservers == ("10.0.2.3",)
    assert "127.0.0.1" in attachment.warning
    assert "sudo apt-get install passt" in attachment.warning
    assert attachment.helper is None


@needs_passt
async def test_attach_serves_before_it_returns_and_detach_leaves_nothing(network: UserNetwork, files: VMLayout) -> None:
    outward_address()
    attachment = await network.attach(VM, files, NOWHERE, nat=True, uid=-1)
    assert attachment.mode == "passt"
    assert attachment.card is not None
    assert attachment.card.socket == files.network_socket
    assert (attachment.card.mac, attachment.warning) == (mac_of(VM), "")
    assert attachment.helper is not None
    assert os.getsid(attachment.helper.pid) == attachment.helper.pid
    assert len(helpers()) == 2
    await network.detach(VM, files, NOWHERE)
    await network.detach(VM, files, NOWHERE)
    await gone(attachment)
    assert list(files.root.iterdir()) == []


@needs_passt
async def test_another_daemon_finds_and_ends_it_by_the_vm_s_id(network: UserNetwork, files: VMLayout) -> None:
    outward_address()
    attachment = await network.attach(VM, files, NOWHERE, nat=True, uid=-1)
    other = UserNetwork()
    await other.detach(new_id(), VMLayout(files.root.parent), NOWHERE)
    assert len(helpers()) == 2
    await other.detach(VM, files, NOWHERE)
    await gone(attachment)


@needs_passt
async def test_it_ends_when_the_vmm_goes(network: UserNetwork, files: VMLayout) -> None:
    outward_address()
    attachment = await network.attach(VM, files, NOWHERE, nat=True, uid=-1)
    with Card(files.network_socket) as card:
        await asyncio.to_thread(card.find_gateway, "10.0.2.15", "10.0.2.2")
    await gone(attachment)


@needs_passt
@pytest.mark.parametrize("uid", [-1, pytest.param(54321, marks=[pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="another uid")])])
async def test_neither_relay_nor_passt_runs_as_root(network: UserNetwork, files: VMLayout, uid: int) -> None:
    outward_address()
    await network.attach(VM, files, NOWHERE, nat=True, uid=uid)
    expected = uid if uid >= 0 else 65534 if os.geteuid() == 0 else os.geteuid()
    wanted = passt.helper_name(VM).encode()
    owners = [process.owner_of(pid) for pid, words in process.command_lines() if wanted in words or words[0] == b"passt-" + wanted]
    assert owners == [expected, expected]


@needs_passt
async def test_a_listener_on_another_address_of_the_host_is_reachable(network: UserNetwork, files: VMLayout) -> None:
    address = outward_address()
    await network.attach(VM, files, NOWHERE, nat=True, uid=-1)
    with listening(address) as (tcp, datagrams, port), Card(files.network_socket) as card:
        await asyncio.to_thread(card.find_gateway, "10.0.2.15", "10.0.2.2")
        card.send_ip(tcp_syn("10.0.2.15", address, port, source_port=40000))
        accepted, _ = await asyncio.to_thread(tcp.accept)
        accepted.close()
        assert await asyncio.to_thread(card.tcp_answer, 40000) == SYN_ACK
        card.send_ip(udp("10.0.2.15", address, port, b"hello", source_port=40001))
        assert (await asyncio.to_thread(datagrams.recvfrom, 100))[0] == b"hello"


@needs_passt
@pytest.mark.parametrize("source", ["10.0.2.15", "127.0.0.1"])
@pytest.mark.parametrize("destination", ["127.0.0.1", "0.0.0.0", "127.0.0.53", "10.0.2.2", "10.0.2.3", "10.0.2.15"])
async def test_a_listener_on_the_host_s_loopback_is_not_reachable(network: UserNetwork, files: VMLayout, source: str, destination: str) -> None:
    address = outward_address()
    await network.attach(VM, files, NOWHERE, nat=True, uid=-1)
    with listening("127.0.0.1") as (tcp, datagrams, port), listening(address) as (_, fence, fence_port), Card(files.network_socket) as card:
        await asyncio.to_thread(card.find_gateway, "10.0.2.15", "10.0.2.2")
        card.send_ip(tcp_syn(source, destination, port, source_port=40000))
        card.send_ip(udp(source, destination, port, b"reached", source_port=40001))
        # passt handles frames in order and a local connect or send completes at once, so what comes later proves that those before are done.
        card.send_ip(udp("10.0.2.15", address, fence_port, b"fence", source_port=40002))
        assert (await asyncio.to_thread(fence.recvfrom, 100))[0] == b"fence"
        for listener in (tcp, datagrams):
            listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            tcp.accept()
        with pytest.raises(BlockingIOError):
            datagrams.recv(100)


@needs_passt
async def test_a_passt_that_cannot_start_says_why_and_leaves_nothing(network: UserNetwork, files: VMLayout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passt, "passt_command", lambda binary, card: [str(binary), "--no-such-option"])
    with pytest.raises(CommandFailed, match="no-such-option"):
        await network.attach(VM, files, NOWHERE, nat=True, uid=-1)
    assert helpers() == []
    assert list(files.root.iterdir()) == []


@needs_passt
async def test_attaching_again_replaces_what_a_crash_left(network: UserNetwork, files: VMLayout) -> None:
    outward_address()
    first = await UserNetwork().attach(VM, files, NOWHERE, nat=True, uid=-1)
    await network.attach(VM, files, NOWHERE, nat=True, uid=-1)
    assert first.helper is not None
    assert not process.is_alive(first.helper)
    sockets.connect(files.network_socket).close()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("nameserver 192.0.2.53\n", ("192.0.2.53",)),
        ("# x\nsearch a\nnameserver 192.0.2.1\nnameserver 127.0.0.1\nnameserver 192.0.2.2 # x\n", ("192.0.2.1", "192.0.2.2")),
        ("nameserver 192.0.2.1\nnameserver 192.0.2.2\nnameserver 192.0.2.3\nnameserver 192.0.2.4\n", ("192.0.2.1", "192.0.2.2", "192.0.2.3")),
        ("nameserver 127.0.0.53\nnameserver 192.0.2.1\n", (passt.DNS_FORWARDER,)),
        ("nameserver ::1\nnameserver 127.0.0.1\n", (passt.DNS_FORWARDER,)),
        ("nameserver fe80::1%eth0\nnameserver 192.0.2.1\n", ("192.0.2.1",)),
        ("nameserver\nnameserver 0.0.0.0\n", (passt.DNS_FORWARDER,)),
        ("nameserver ::1\n", ()),
        ("", ()),
    ],
)
def test_nameservers_that_work_in_the_guest(tmp_path: Path, content: str, expected: tuple[str, ...]) -> None:
    (tmp_path / "resolv.conf").write_text(content)
    assert passt.nameservers(tmp_path / "resolv.conf") == expected


def test_no_resolv_conf(tmp_path: Path) -> None:
    assert passt.nameservers(tmp_path / "none") == ()


@needs_passt
async def test_a_host_without_a_resolver_gets_a_warning(network: UserNetwork, files: VMLayout, monkeypatch: pytest.MonkeyPatch) -> None:
    outward_address()
    monkeypatch.setattr(passt, "nameservers", lambda: ())
    assert "resolve names" in (await network.attach(VM, files, NOWHERE, nat=True, uid=-1)).warning


@needs_passt
@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="gives passt another /etc/resolv.conf in a mount namespace")
async def test_a_resolver_on_the_host_s_loopback_answers_through_the_forwarder(tmp_path: Path) -> None:
    outward_address()
    (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.77\n")
    script = 'mount --bind "$1" /etc/resolv.conf && exec "$2" -m tests.unit.net.ask_forwarder "$3"'
    words = ["--mount", "sh", "-c", script, "sh", str(tmp_path / "resolv.conf"), sys.executable, str(tmp_path)]
    done = await run(["unshare", *words], deadline=30, env={"PYTHONPATH": os.pathsep.join(sys.path)}, cwd=Path(__file__).parents[3])
    assert done.stdout == b"10.0.2.3 answered\n"


def test_the_whole_command_line_of_passt() -> None:
    card = NetworkCard(mac="52:54:00:00:00:01", address="10.0.2.15", prefix=24, gateway="10.0.2.2", nameservers=("192.0.2.1",), socket=None)
    common = [
        *("/usr/bin/passt", "--foreground", "--quiet", "--ipv4-only", "--no-map-gw", "--tcp-ports", "none", "--udp-ports", "none"),
        *("--address", "10.0.2.15", "--netmask", "24", "--gateway", "10.0.2.2"),
    ]
    assert passt.passt_command(Path("/usr/bin/passt"), card) == common
    forwarding = NetworkCard(mac=card.mac, address=card.address, prefix=24, gateway=card.gateway, nameservers=(passt.DNS_FORWARDER,), socket=None)
    assert passt.passt_command(Path("/usr/bin/passt"), forwarding) == [*common, "--dns-forward", "10.0.2.3"]


def test_mac_addresses_are_local_unicast_and_stay() -> None:
    assert mac_of("a") == mac_of("a") != mac_of("b")
    assert int(mac_of("a")[:2], 16) & 3 == 2


async def test_helpers_are_listed_by_what_they_have_open(tmp_path: Path) -> None:
    vms, vm_id = tmp_path / "vms", new_id()
    (vms / vm_id).mkdir(parents=True)
    script = [sys.executable, "-I", "-S", "-c", "import time; time.sleep(60)"]
    ours = spawn([*script, f"banger-network-{vm_id}"], output=vms / vm_id / "network.log")
    foreign = spawn([*script, f"banger-network-{vm_id}"], output=tmp_path / "log")
    try:
        network = UserNetwork()
        assert isinstance(network, ListsHelpers)
        assert await network.list_helpers(vms) == {vm_id: (ours,)}
        shutil.rmtree(vms)
        assert await network.list_helpers(vms) == {vm_id: (ours,)}
        assert await network.list_helpers(tmp_path / "vm") == {}
    finally:
        for child in (ours, foreign):
            await process.end(child)
