"""The table of privileged verbs as the socket has them: for each, how its arguments are checked and what it calls then, which is after all is checked."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from .. import __version__
from ..model.errors import BadRequest, UnknownMethod
from ..model.limits import FIRST_VMM_UID, LAST_VMM_UID
from ..model.network import NetworkPlan
from ..model.opid import OP_ID_PATTERN
from .protocol import HelperInfo, Launch, PrivilegedOps
from .shapes import info_to_json, process_to_json, read_limits, read_process, state_to_json
from .validate import Fields, decode_json, shown
from .vmms.arguments import MAX_ARGUMENT_CHARACTERS, MAX_ARGUMENTS, check_qemu_arguments
from .wire import Message

MAX_WARM_TAPS: Final = 64
SIGNALS: Final = ("TERM", "KILL", "INT", "HUP", "QUIT", "USR1", "USR2", "ABRT")
_VERB: Final = re.compile(r"[a-z_]{1,32}")
_OP_ID: Final = re.compile(OP_ID_PATTERN.pattern + "|")
_SIGNAL: Final = re.compile("|".join(SIGNALS))
_PROGRAM: Final = re.compile(r"qemu")
_ARGUMENT: Final = re.compile(f"[ -~]{{0,{MAX_ARGUMENT_CHARACTERS}}}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What this helper acts with, and for whom."""

    ops: PrivilegedOps
    plan: NetworkPlan
    uid: int
    """The uid it serves."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a verb gives back: a value of JSON, and sockets that go to the caller and are closed here."""

    value: Any = None
    sockets: tuple[socket.socket, ...] = ()


Act = Callable[[], Awaitable[Answer]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request whose frame is in order; its arguments have not been looked at."""

    verb: str
    op_id: str
    arguments: Fields
    descriptors: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A request that has passed every check."""

    vm_id: str
    """"" for verbs that concern no machine, or many."""
    act: Act


def decode_request(message: Message) -> Request:
    """The frame of a request. Raises BadRequest or UnknownMethod; the descriptors stay the caller's to close."""
    fields = Fields(decode_json(message.untrusted_payload), "request")
    verb = fields.text("verb", _VERB, "the word of a verb")
    op_id = fields.text("op_id", _OP_ID, "an op id")
    arguments = Fields(fields.take("arguments"), verb)
    fields.end()
    if verb not in VERBS:
        raise UnknownMethod(f"the helper has no verb {shown(verb)}", hint="daemon and helper differ in version; sudo banger system restart")
    return Request(verb=verb, op_id=op_id, arguments=arguments, descriptors=message.descriptors)


def decode_call(request: Request, scope: Scope) -> Call:
    """The call that a request asks for. Raises BadRequest."""
    if request.descriptors and request.verb != "launch_vmm":
        raise BadRequest(f"{request.verb} takes no descriptors")
    vm_id = request.arguments.vm_id() if request.verb in _OF_A_MACHINE else ""
    act = VERBS[request.verb](request.arguments, scope, vm_id, request.descriptors)
    request.arguments.end()
    return Call(vm_id=vm_id, act=act)


def _plain(act: Callable[[PrivilegedOps], Awaitable[None]]) -> Callable[[Fields, Scope, str, tuple[int, ...]], Act]:
    """A verb without arguments and without an answer."""

    def decode(_fields: Fields, scope: Scope, _vm_id: str, _descriptors: tuple[int, ...]) -> Act:
        return _silent(lambda: act(scope.ops))

    return decode


def _silent(act: Callable[[], Awaitable[None]]) -> Act:
    async def run() -> Answer:
        await act()
        return Answer()

    return run


def _info(_fields: Fields, scope: Scope, _vm_id: str, _descriptors: tuple[int, ...]) -> Act:
    async def run() -> Answer:
        return Answer(info_to_json(HelperInfo(version=__version__, network=scope.plan, pid=os.getpid(), uid=scope.uid)))

    return run


def _ensure_network(_fields: Fields, scope: Scope, _vm_id: str, _descriptors: tuple[int, ...]) -> Act:
    async def run() -> Answer:
        return Answer(state_to_json(await scope.ops.network.ensure_network()))

    return run


def _inspect_network(_fields: Fields, scope: Scope, _vm_id: str, _descriptors: tuple[int, ...]) -> Act:
    async def run() -> Answer:
        return Answer(state_to_json(await scope.ops.network.inspect_network()))

    return run


def _warm_taps(fields: Fields, scope: Scope, _vm_id: str, _descriptors: tuple[int, ...]) -> Act:
    slots = fields.slots("slots", scope.plan, MAX_WARM_TAPS)
    return _silent(lambda: scope.ops.network.warm_taps(slots))


def _attach_tap(fields: Fields, scope: Scope, vm_id: str, _descriptors: tuple[int, ...]) -> Act:
    slot, nat = fields.slot("slot", scope.plan), fields.boolean("nat")
    return _silent(lambda: scope.ops.network.attach_tap(vm_id, slot, nat=nat))


def _release_taps(fields: Fields, scope: Scope, _vm_id: str, _descriptors: tuple[int, ...]) -> Act:
    slots, keep = fields.slots("slots", scope.plan), fields.boolean("keep")
    return _silent(lambda: scope.ops.network.release_taps(slots, keep=keep))


def _set_nat(fields: Fields, scope: Scope, _vm_id: str, _descriptors: tuple[int, ...]) -> Act:
    addresses = fields.switches("addresses", scope.plan)
    return _silent(lambda: scope.ops.network.set_nat(addresses))


def _bind_dns(_fields: Fields, scope: Scope, _vm_id: str, _descriptors: tuple[int, ...]) -> Act:
    async def run() -> Answer:
        return Answer(sockets=await scope.ops.names.bind_dns())

    return run


def _route_resolver(fields: Fields, scope: Scope, _vm_id: str, _descriptors: tuple[int, ...]) -> Act:
    port = fields.integer("port", 1024, 65535)

    async def run() -> Answer:
        return Answer(await scope.ops.names.route_resolver(port))

    return run


def _launch_vmm(fields: Fields, scope: Scope, vm_id: str, descriptors: tuple[int, ...]) -> Act:
    if not descriptors:
        raise BadRequest("launch_vmm needs descriptors")
    launch = Launch(
        vm_id=vm_id,
        program=fields.text("program", _PROGRAM, "qemu"),
        arguments=fields.texts("arguments", _ARGUMENT, MAX_ARGUMENTS, "printable ASCII characters"),
        uid=fields.integer("uid", FIRST_VMM_UID, LAST_VMM_UID),
        limits=fields.inner("limits", read_limits),
        kvm=fields.boolean("kvm"),
    )
    if check_qemu_arguments(launch.arguments, len(descriptors)) != vm_id:
        raise BadRequest("launch_vmm: the arguments are those of another machine")

    async def run() -> Answer:
        return Answer(process_to_json(await scope.ops.vmms.launch_vmm(launch, descriptors)))

    return run


def _signal_vmm(fields: Fields, scope: Scope, vm_id: str, _descriptors: tuple[int, ...]) -> Act:
    process = fields.inner("process", read_process)
    signal = fields.text("signal", _SIGNAL, f"one of {', '.join(SIGNALS)}")

    async def run() -> Answer:
        return Answer(await scope.ops.vmms.signal_vmm(vm_id, process, signal))

    return run


def _list_vmms(_fields: Fields, scope: Scope, _vm_id: str, _descriptors: tuple[int, ...]) -> Act:
    async def run() -> Answer:
        return Answer({vm_id: [process.pid, process.start_time] for vm_id, process in (await scope.ops.vmms.list_vmms()).items()})

    return run


def _limit_vmm(fields: Fields, scope: Scope, vm_id: str, _descriptors: tuple[int, ...]) -> Act:
    limits = fields.inner("limits", read_limits)
    return _silent(lambda: scope.ops.vmms.limit_vmm(vm_id, limits))


def _release_vmm(_fields: Fields, scope: Scope, vm_id: str, _descriptors: tuple[int, ...]) -> Act:
    return _silent(lambda: scope.ops.vmms.release_vmm(vm_id))


VERBS: Final[dict[str, Callable[[Fields, Scope, str, tuple[int, ...]], Act]]] = {
    "info": _info,
    "ensure_network": _ensure_network,
    "inspect_network": _inspect_network,
    "warm_taps": _warm_taps,
    "attach_tap": _attach_tap,
    "release_taps": _release_taps,
    "set_nat": _set_nat,
    "remove_network": _plain(lambda ops: ops.network.remove_network()),
    "bind_dns": _bind_dns,
    "route_resolver": _route_resolver,
    "clear_resolver": _plain(lambda ops: ops.names.clear_resolver()),
    "launch_vmm": _launch_vmm,
    "signal_vmm": _signal_vmm,
    "list_vmms": _list_vmms,
    "limit_vmm": _limit_vmm,
    "release_vmm": _release_vmm,
}
_OF_A_MACHINE: Final = frozenset({"attach_tap", "launch_vmm", "signal_vmm", "limit_vmm", "release_vmm"})
