"""Privileged verbs that only note what was asked of them, and a server of the helper around them."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from banger.helper import main
from banger.helper.client import HelperClient
from banger.helper.protocol import Launch, PrivilegedOps
from banger.helper.server import Bounds, HelperServer
from banger.helper.verbs import Scope
from banger.host import sockets
from banger.model.installation import Installation
from banger.model.machine import Limits
from banger.model.network import NetworkState, Traffic, network_plan
from banger.model.opid import current_op_id
from banger.model.records import ProcessIdentity

PLAN = network_plan("bngt0", "10.213.0.0/24")
VM = "0123456789abcdef" * 2
PROCESS = ProcessIdentity(pid=4711, start_time=123456)
STATE = NetworkState(
    taps=(2, 3),
    nat={"10.213.0.2": Traffic(sent_packets=1, sent_bytes=2, received_packets=3, received_bytes=4)},
    repaired=("the bridge",),
    warnings=("ufw drops what is forwarded: ufw route allow in on bngt0",),
)


async def _at_once() -> None:
    return None


class RecordingOps:
    """NetworkOps, NameOps and VmmOps."""

    def __init__(self, during: Callable[[], Awaitable[None]] = _at_once) -> None:
        self.calls: list[tuple[object, ...]] = []
        self.op_ids: list[str] = []
        self.inodes: list[int] = []
        self.running: dict[str, ProcessIdentity] = {}
        self._during = during

    @property
    def bundle(self) -> PrivilegedOps:
        return PrivilegedOps(network=self, names=self, vmms=self)

    async def _note(self, *call: object) -> None:
        self.calls.append(call)
        self.op_ids.append(current_op_id.get())
        await self._during()

    async def ensure_network(self) -> NetworkState:
        await self._note("ensure_network")
        return STATE

    async def inspect_network(self) -> NetworkState:
        await self._note("inspect_network")
        return NetworkState()

    async def warm_taps(self, slots: Sequence[int]) -> None:
        await self._note("warm_taps", tuple(slots))

    async def attach_tap(self, vm_id: str, slot: int, *, nat: bool) -> None:
        await self._note("attach_tap", vm_id, slot, nat)

    async def release_taps(self, slots: Sequence[int], *, keep: bool) -> None:
        await self._note("release_taps", tuple(slots), keep)

    async def set_nat(self, addresses: Mapping[str, bool]) -> None:
        await self._note("set_nat", dict(addresses))

    async def remove_network(self) -> None:
        await self._note("remove_network")

    async def bind_dns(self) -> tuple[socket.socket, socket.socket]:
        await self._note("bind_dns")
        udp, tcp = socket.socket(type=socket.SOCK_DGRAM), socket.socket()
        for one in (udp, tcp):
            one.bind(("127.0.0.1", 0))
        tcp.listen()
        return udp, tcp

    async def route_resolver(self, port: int) -> str:
        await self._note("route_resolver", port)
        return "a recipe"

    async def clear_resolver(self) -> None:
        await self._note("clear_resolver")

    async def launch_vmm(self, launch: Launch, descriptors: Sequence[int]) -> ProcessIdentity:
        self.inodes = [os.fstat(fd).st_ino for fd in descriptors]
        self.running[launch.vm_id] = PROCESS
        await self._note("launch_vmm", launch)
        return PROCESS

    async def signal_vmm(self, vm_id: str, process: ProcessIdentity, signal: str) -> bool:
        await self._note("signal_vmm", vm_id, process, signal)
        return self.running.pop(vm_id, None) is not None

    async def list_vmms(self) -> Mapping[str, ProcessIdentity]:
        await self._note("list_vmms")
        return self.running

    async def limit_vmm(self, vm_id: str, limits: Limits) -> None:
        await self._note("limit_vmm", vm_id, limits)

    async def release_vmm(self, vm_id: str) -> None:
        await self._note("release_vmm", vm_id)


def scope(ops: RecordingOps, uid: int | None = None) -> Scope:
    return Scope(ops=ops.bundle, plan=PLAN, uid=os.getuid() if uid is None else uid)


@asynccontextmanager
async def serving(path: Path, ops: RecordingOps, bounds: Bounds | None = None, uid: int | None = None) -> AsyncIterator[HelperClient]:
    """A helper in this process, and a client of it."""
    stopping = asyncio.Event()
    with sockets.listen(path, kind=socket.SOCK_SEQPACKET) as listener:
        task = asyncio.create_task(HelperServer(scope(ops, uid), bounds).serve(listener, stopping))
        try:
            yield HelperClient(path, call_seconds=20)
        finally:
            stopping.set()
            await task


QEMU_ARGUMENTS = (
    *("-M", "microvm,acpi=on,rtc=on", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "2048M"),
    *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
    *("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny", "-name", f"banger-{VM}"),
    *("-kernel", "/proc/self/fd/@fd0@", "-initrd", "/proc/self/fd/@fd1@", "-append", "console=ttyS0"),
)


def compose(installation: Installation) -> Scope:
    """In place of the helper's own: nothing is really done."""
    return Scope(ops=RecordingOps().bundle, plan=installation.network, uid=installation.uid)


if __name__ == "__main__":
    main.compose = compose
    sys.exit(main.main())
