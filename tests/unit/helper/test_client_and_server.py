"""Every verb from the client through a real socket to the operations, descriptors included, and what happens when one end misbehaves."""

from __future__ import annotations

import array
import asyncio
import json
import logging
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from banger.helper.client import HelperClient
from banger.helper.protocol import Launch
from banger.helper.server import Bounds
from banger.helper.wire import MAX_DESCRIPTORS, MAX_REQUEST_BYTES
from banger.host.sockets import Peer
from banger.model.errors import BadRequest, BangerError, CommandFailed, HelperUnreachable, UnknownMethod
from banger.model.limits import FIRST_VMM_UID
from banger.model.machine import Limits
from banger.model.network import NetworkState
from banger.model.opid import current_op_id
from tests.fakes.privileged import PLAN, PROCESS, QEMU_ARGUMENTS, STATE, VM, RecordingOps, serving

LIMITS = Limits(memory_max_bytes=2**31, cpu_quota=1.5, pids_max=64, io_weight=100, disk_bytes_per_second=10**6)
LAUNCH = Launch(vm_id=VM, program="qemu", arguments=QEMU_ARGUMENTS, uid=FIRST_VMM_UID, limits=LIMITS, kvm=True)
INFO = b'{"verb":"info","op_id":"","arguments":{}}'


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "helper.sock"


@pytest.fixture
def files(tmp_path: Path) -> Iterator[list[int]]:
    descriptors = [os.open(tmp_path / f"file{number}", os.O_RDWR | os.O_CREAT) for number in range(3)]
    yield descriptors
    for fd in descriptors:
        os.close(fd)


async def exchange(path: Path, payload: bytes, descriptors: list[int] | None = None) -> dict[str, Any]:
    """What a client of another make would do."""

    def talk() -> bytes:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.settimeout(20)
            sock.connect(str(path))
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
            sock.sendmsg([payload], ancillary)
            return sock.recv(1 << 18)

    reply: dict[str, Any] = json.loads(await asyncio.to_thread(talk))
    return reply


# -- every verb -------------------------------------------------------------------------------------------------------------------------------------------


async def test_every_verb_arrives_as_it_was_meant(path: Path, files: list[int]) -> None:
    ops = RecordingOps()
    async with serving(path, ops) as client:
        info = await client.info()
        assert (info.network, info.uid, info.pid) == (PLAN, os.getuid(), os.getpid())
        assert await client.ensure_network() == STATE
        assert await client.inspect_network() == NetworkState()
        await client.warm_taps((2, 3))
        await client.attach_tap(VM, 5, nat=True)
        await client.release_taps([7, 6], keep=True)
        await client.set_nat({"10.213.0.9": False, "10.213.0.8": True})
        await client.remove_network()
        assert await client.route_resolver(42069) == "a recipe"
        await client.clear_resolver()
        assert await client.launch_vmm(LAUNCH, files) == PROCESS
        assert await client.list_vmms() == {VM: PROCESS}
        await client.limit_vmm(VM, LIMITS)
        assert await client.signal_vmm(VM, PROCESS, "KILL") is True
        assert await client.signal_vmm(VM, PROCESS, "KILL") is False
        await client.release_vmm(VM)
    assert ops.calls == [
        ("ensure_network",),
        ("inspect_network",),
        ("warm_taps", (2, 3)),
        ("attach_tap", VM, 5, True),
        ("release_taps", (7, 6), True),
        ("set_nat", {"10.213.0.9": False, "10.213.0.8": True}),
        ("remove_network",),
        ("route_resolver", 42069),
        ("clear_resolver",),
        ("launch_vmm", LAUNCH),
        ("list_vmms",),
        ("limit_vmm", VM, LIMITS),
        ("signal_vmm", VM, PROCESS, "KILL"),
        ("signal_vmm", VM, PROCESS, "KILL"),
        ("release_vmm", VM),
    ]


async def test_descriptors_go_to_the_helper_and_none_stays_open(path: Path, files: list[int]) -> None:
    ops = RecordingOps()
    async with serving(path, ops) as client:
        before = open_descriptors()
        for _ in range(5):
            await client.launch_vmm(LAUNCH, files)
        assert ops.inodes == [os.fstat(fd).st_ino for fd in files]
        assert open_descriptors() == before


async def test_dns_sockets_come_from_the_helper(path: Path) -> None:
    async with serving(path, RecordingOps()) as client:
        before = open_descriptors()
        udp, tcp = await client.bind_dns()
        with udp, tcp:
            assert not udp.getblocking()
            assert not tcp.getblocking()
            assert not os.get_inheritable(udp.fileno())
            with socket.create_connection(tcp.getsockname()):
                accepted, _ = tcp.accept()
                accepted.close()
        assert open_descriptors() == before


async def test_the_op_id_follows_the_call_and_the_log_names_it_once(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ops = RecordingOps()
    token = current_op_id.set("op-0123456789ab")
    try:
        with caplog.at_level(logging.INFO, "banger.helper.server"):
            async with serving(path, ops) as client:
                await client.release_vmm(VM)
    finally:
        current_op_id.reset(token)
    assert ops.op_ids == ["op-0123456789ab"]
    records = [vars(record) for record in caplog.records if record.message == "call"]
    assert [(one["verb"], one["vm"], one["result"]) for one in records] == [("release_vmm", VM, "ok")]


async def test_many_calls_at_once(path: Path) -> None:
    ops = RecordingOps()
    async with serving(path, ops, Bounds(connections=4)) as client:
        await asyncio.gather(*(client.attach_tap(VM, slot, nat=False) for slot in range(2, 202)))
    assert {call[2] for call in ops.calls} == set(range(2, 202))


# -- errors -----------------------------------------------------------------------------------------------------------------------------------------------


async def test_an_error_is_the_same_error_at_the_client(path: Path) -> None:
    async def fail() -> None:
        raise CommandFailed("nft said no", hint="say please")

    async with serving(path, RecordingOps(fail)) as client:
        with pytest.raises(BangerError, match="nft said no") as caught:
            await client.remove_network()
        assert caught.value.hint == "say please"
        with pytest.raises(BadRequest, match="slots"):
            await client.warm_taps([1])


async def test_an_unexpected_error_is_logged_with_its_traceback_and_the_helper_goes_on(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        raise RuntimeError("secret inside")

    async with serving(path, RecordingOps(fail)) as client:
        with pytest.raises(BangerError, match="failed unexpectedly") as caught:
            await client.remove_network()
        assert "secret" not in str(caught.value)
        assert (await client.info()).pid == os.getpid()
    assert any(record.exc_info and "secret inside" in str(record.exc_info[1]) for record in caplog.records)


async def test_a_call_that_hangs_is_ended(path: Path) -> None:
    async def hang() -> None:
        await asyncio.Event().wait()

    async with serving(path, RecordingOps(hang), Bounds(call_seconds=0.05)) as client:
        with pytest.raises(BangerError, match=r"remove_network took more than 0\.05 s"):
            await client.remove_network()


async def test_nobody_listens(path: Path) -> None:
    with pytest.raises(HelperUnreachable) as caught:
        await HelperClient(path).info()
    assert "sudo banger system restart" in caught.value.hint


# -- bounds -----------------------------------------------------------------------------------------------------------------------------------------------


async def test_the_largest_request_passes_and_one_byte_more_does_not(path: Path) -> None:
    async with serving(path, RecordingOps()):
        assert "ok" in await exchange(path, INFO + b" " * (MAX_REQUEST_BYTES - len(INFO)))
        assert (await exchange(path, INFO + b" " * (MAX_REQUEST_BYTES + 1 - len(INFO))))["error"]["code"] == "bad_request"


async def test_too_many_descriptors_are_refused_and_closed(path: Path) -> None:
    async with serving(path, RecordingOps()):
        before = open_descriptors()
        for number in (1, MAX_DESCRIPTORS, MAX_DESCRIPTORS + 1, 253):
            assert (await exchange(path, INFO, [0] * number))["error"]["code"] == "bad_request"
        assert open_descriptors() == before


async def test_another_uid_is_refused_before_it_says_anything(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """tests/contract/test_hostile_owner.py shows it with real uids."""
    monkeypatch.setattr("banger.helper.server.peer_of", lambda _: Peer(pid=4711, uid=os.getuid() + 1, gid=0))
    async with serving(path, RecordingOps()):

        def listen_only() -> bytes:
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
                sock.connect(str(path))
                return sock.recv(1000)

        assert json.loads(await asyncio.to_thread(listen_only))["error"]["code"] == "unauthorized"


async def test_half_open_connections_end_and_others_get_their_turn(path: Path) -> None:
    async with serving(path, RecordingOps(), Bounds(connections=4, request_seconds=0.2)) as client:
        idle = [socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(20)]
        for one in idle:
            one.connect(str(path))
        assert (await client.info()).pid == os.getpid()
        for one in idle:
            assert b"no request came" in await asyncio.to_thread(one.recv, 1000)
            one.close()


@pytest.mark.parametrize("payload", [INFO, b"junk", b"x" * (MAX_REQUEST_BYTES + 1)], ids=["info", "junk", "too long"])
async def test_a_lingering_descriptor_does_not_stop_the_others(path: Path, payload: bytes) -> None:
    """close(2) of the last descriptor of such a socket waits for its peer."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        sender = socket.create_connection(server.getsockname())
        receiver, _ = server.accept()
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 2))
        sender.setblocking(False)
        while True:
            try:
                sender.send(b"x" * 65536)
            except BlockingIOError:
                break
        async with serving(path, RecordingOps()) as client:
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
                sock.connect(str(path))
                socket.send_fds(sock, [payload], [sender.fileno()])
                sender.close()
                await client.info()
                sock.setblocking(False)
                with pytest.raises(BlockingIOError):
                    sock.recv(1)
                receiver.close()


# -- the helper ends in between ---------------------------------------------------------------------------------------------------------------------------


class Loser:
    """A helper that takes requests and dies with the first ones."""

    def __init__(self, path: Path) -> None:
        self.requests: list[str] = []
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(str(path))
        self._listener.listen()

    def lose(self, number: int, replies: list[object]) -> None:
        with self._listener:
            for index in range(number + len(replies)):
                sock, _ = self._listener.accept()
                with sock:
                    payload, descriptors, _, _ = socket.recv_fds(sock, 1 << 17, 16)
                    for fd in descriptors:
                        os.close(fd)
                    self.requests.append(json.loads(payload)["verb"])
                    if index >= number:
                        sock.send(json.dumps(replies[index - number]).encode())


async def test_a_verb_is_repeated_when_the_helper_went_away(path: Path) -> None:
    loser = Loser(path)
    task = asyncio.create_task(asyncio.to_thread(loser.lose, 2, [{"ok": None}]))
    await HelperClient(path).release_vmm(VM)
    await task
    assert loser.requests == ["release_vmm"] * 3


async def test_a_launch_is_not_repeated_but_undone(path: Path, files: list[int]) -> None:
    loser = Loser(path)
    gone = [999_999_999 % 2**22, 1]
    task = asyncio.create_task(asyncio.to_thread(loser.lose, 1, [{"ok": {VM: gone}}, {"ok": True}, {"ok": None}]))
    with pytest.raises(HelperUnreachable):
        await HelperClient(path).launch_vmm(LAUNCH, files)
    await task
    assert loser.requests == ["launch_vmm", "list_vmms", "signal_vmm", "release_vmm"]


async def test_a_cancelled_launch_is_undone(path: Path, files: list[int]) -> None:
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        entered.set()
        await go_on.wait()

    ops = RecordingOps(wait)
    async with serving(path, ops) as client:
        task = asyncio.create_task(client.launch_vmm(LAUNCH, files))
        await entered.wait()
        task.cancel()
        await asyncio.sleep(0)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert [call[0] for call in ops.calls] == ["launch_vmm", "list_vmms", "signal_vmm", "release_vmm"]
    assert ops.running == {}


async def test_an_answer_of_another_version_is_told_as_such(path: Path) -> None:
    replies: list[object] = [[], {"ok": {}}, {"error": 5}, {"error": {"code": 5}}, {}]
    for reply in replies:
        loser = Loser(path)
        task = asyncio.create_task(asyncio.to_thread(loser.lose, 0, [reply]))
        with pytest.raises(HelperUnreachable, match="not understood"):
            await HelperClient(path).ensure_network()
        await task
        path.unlink()


async def test_an_unknown_verb_tells_of_versions(path: Path) -> None:
    async with serving(path, RecordingOps()) as client:
        with pytest.raises(UnknownMethod) as caught:
            await client._call("from_the_future", {})
        assert "version" in caught.value.hint


async def test_calls_end_before_the_server_does(path: Path) -> None:
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        entered.set()
        await go_on.wait()

    ops = RecordingOps(wait)
    async with serving(path, ops) as client:
        call = asyncio.create_task(client.release_vmm(VM))
        await entered.wait()
        asyncio.get_running_loop().call_later(0.05, go_on.set)
    await call
